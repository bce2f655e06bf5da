"""Asks servers for chat completions over HTTP, and notes when what came."""

import http.client
import json
import random
import re
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import children
from children import Failed

HOST = "127.0.0.1"
PIECE_BYTES = 1 << 16
# Between two looks at whether a server is ready.
LOOK_S = 0.02
# Words of the two texts that tell how many tokens a word has, and of the answers to them.
FEW_WORDS, MANY_WORDS, FIRST_ANSWER_TOKENS = 8, 136, 4
# Unlike each other from the first word on.
QUESTIONS = ["What is this about?", "Name one thing that is in it.", "Who would like to read it?"]


@dataclass
class Answer:
    """What one request brought. Times are of one clock, in seconds."""

    sent: float
    # When each piece of text came.
    arrivals: list
    ended: float
    prompt_tokens: int = 0
    # Tokens of the prompt that the server had not to compute.
    cached_tokens: int = 0
    tokens: int = 0

    @property
    def first_s(self) -> float | None:
        """Time to the first token; None where none had a text and there were several."""
        if self.arrivals:
            return self.arrivals[0] - self.sent
        return self.ended - self.sent if self.tokens == 1 else None


class Server:
    """One program that serves one model, ready when made and stopped at the end of `with`."""

    def __init__(self, make_command, length, extra: dict, timeout_s: float):
        """`make_command` gets a port; `length` gives what a request says of its answer's length."""
        self.make_command, self.length, self.extra = make_command, length, extra
        self.timeout_s, self.outcomes = timeout_s, []
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, _error, _trace):
        # A server that ended by itself is the failure, not the request that it broke off.
        if kind is None or self.child.has_ended():
            self.stop()
        else:
            self.child.end()

    def start(self):
        self.port = free_port()
        self.child = children.Server(self.make_command(self.port))
        try:
            while not self.is_ready():
                if self.child.has_ended():
                    self.stop()
                if time.monotonic() - self.child.began > self.timeout_s:
                    raise Failed(f"{' '.join(self.child.command)}\n  was not ready in "
                                 f"{self.timeout_s:g} s (--timeout)")
                time.sleep(LOOK_S)
        except BaseException:
            self.child.end()
            raise
        self.start_s = time.monotonic() - self.child.began

    def stop(self):
        self.outcomes.append(self.child.stop(self.timeout_s))

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=self.timeout_s)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ask(self, text: str, tokens: int) -> Answer:
        """Asks for an answer of exactly so many tokens. Raises `Failed`."""
        flow = Flow(self, text, tokens)
        flow.run()
        return flow.answer()


class Flow(threading.Thread):
    """A request and its answer as it comes.

    Only the times of its bytes are taken while they come; what they say is read in `answer`.
    """

    def __init__(self, server: Server, text: str, tokens: int, pieces_until_begun: int = 1):
        super().__init__(daemon=True)
        self.server, self.tokens = server, tokens
        body = {"model": "default", "messages": [{"role": "user", "content": text}],
                "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
                **server.length(tokens), **server.extra}
        self.body = json.dumps(body).encode()
        self.pieces, self.pieces_until_begun, self.failure = [], pieces_until_begun, None
        # Set by this thread: so many pieces came, or the end. Set by others: hang up soon.
        self.begun, self.enough = threading.Event(), threading.Event()

    def run(self):
        connection = http.client.HTTPConnection(HOST, self.server.port,
                                                timeout=self.server.timeout_s)
        try:
            self.sent = time.monotonic()
            connection.request("POST", "/v1/chat/completions", self.body,
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                words = response.read().decode(errors="replace").strip()
                self.failure = f"answered with status {response.status}: {words[:400]}"
                return
            self.read(response)
        except (OSError, http.client.HTTPException) as error:
            self.failure = f"broke off: {error!r}"
        finally:
            self.ended = time.monotonic()
            self.begun.set()
            connection.close()

    def read(self, response):
        more = 2
        while more and (piece := response.read1(PIECE_BYTES)):
            self.pieces.append((time.monotonic(), piece))
            if len(self.pieces) >= self.pieces_until_begun:
                self.begun.set()
            if self.enough.is_set():
                # What came while others waited for this stream's end belongs to it.
                more -= 1

    def answer(self) -> Answer:
        """What came. Raises `Failed` where it is not what was asked for, or not all of it."""
        if self.failure:
            raise self.failed(self.failure)
        answer, usage = Answer(self.sent, [], self.ended), None
        for when, event in events(self.pieces):
            if "error" in event:
                raise self.failed(f"answered with {json.dumps(event['error'])[:400]}")
            usage = event.get("usage") or usage
            for choice in event.get("choices") or []:
                if choice["delta"].get("content") or choice["delta"].get("reasoning_content"):
                    answer.arrivals.append(when)
        if self.enough.is_set():
            return answer
        if not usage:
            raise self.failed("did not say what the answer took")
        answer.prompt_tokens, answer.tokens = usage["prompt_tokens"], usage["completion_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        answer.cached_tokens = details.get("cached_tokens") or 0
        if answer.tokens != self.tokens:
            raise self.failed(f"gave {answer.tokens} tokens where {self.tokens} were asked for")
        return answer

    def failed(self, why: str) -> Failed:
        return Failed(f"{' '.join(self.server.child.command)}\n  {why}")


def events(pieces: list):
    """The objects of server-sent events, each with the time at which its last byte came."""
    rest = b""
    for when, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.partition(b":")
            if name in (b"data", b"error") and value.strip() != b"[DONE]":
                yield when, {"error": json.loads(value)} if name == b"error" else json.loads(value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


class Texts:
    """Texts of about so many tokens, unlike each other from the first word on."""

    def __init__(self, seed: int):
        story = Path(__file__).with_name("story.txt").read_text()
        self.words, self.seed = sorted(set(re.findall(r"[a-z]+", story.lower()))), seed
        self.per_word = self.besides = None

    def settle(self, server: Server, name: str):
        """Asks the first questions of a server; those of the first tell what a word takes."""
        few, many = (server.ask(self.of(f"{name} {words}", words), FIRST_ANSWER_TOKENS)
                     for words in (FEW_WORDS, MANY_WORDS))
        if not self.per_word:
            per_word = (many.prompt_tokens - few.prompt_tokens) / (MANY_WORDS - FEW_WORDS)
            self.besides = few.prompt_tokens - FEW_WORDS * per_word
            self.per_word = per_word

    def long(self, name: str, tokens: int, question: int = 0) -> str:
        """The text with this name and a question about it: together `tokens`, with the template."""
        return self.of(name, max(1, round((tokens - self.besides) / self.per_word)), question)

    def of(self, name: str, words: int, question: int = 0) -> str:
        draw = random.Random(f"{self.seed} {name}")
        text = " ".join(draw.choice(self.words) for _ in range(words))
        return f"{text}.\n\n{QUESTIONS[question]}"

"""How each program is told to measure a row, and how its answer is read."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from children import Failed, Outcome

# What each of several sequences has read before they write together, where no depth is given.
SHORT_PROMPT_TOKENS = 16
# llama.cpp copies some weights into another order at load ("repack"), which speeds up decoding and
# may slow down prefill. Neither is best at everything, so it is asked both ways.
MODES = {"repack": 1, "plain": 0}
# Stands for the model that zonda carries, where no file is named.
BUILT_IN = Path("built-in")
# Contexts that are served without asking for them.
DEFAULT_CONTEXT_TOKENS = 8192


@dataclass(frozen=True)
class Row:
    """One line of the table: `pp512`, `tg64`, `tg32 x8`, `tg32 @ d8192`."""

    kind: str
    tokens: int
    sequences: int
    depth: int

    @property
    def name(self) -> str:
        several = f" x{self.sequences}" if self.sequences > 1 else ""
        deep = f" @ d{self.depth}" if self.depth else ""
        return f"{self.kind}{self.tokens}{several}{deep}"

    @property
    def filled(self) -> int:
        """Tokens that each sequence holds when the clock starts."""
        return self.depth or (SHORT_PROMPT_TOKENS if self.sequences > 1 else 0)


def parse_row(text: str) -> Row:
    """Reads a row's name, with or without blanks. Raises `ValueError` saying what is wrong."""
    found = re.fullmatch(r"(pp|tg)(\d+)(?:x(\d+))?(?:@d(\d+))?", re.sub(r"\s", "", text))
    if not found:
        raise ValueError(f"{text!r} is no row: write pp512, tg64, tg32x8 or tg32@d8192")
    kind, tokens, sequences, depth = found.groups()
    row = Row(kind, int(tokens), int(sequences or 1), int(depth or 0))
    if row.tokens < 1 or row.sequences < 1:
        raise ValueError(f"{text!r} measures nothing")
    if kind == "pp" and row.sequences > 1:
        raise ValueError(f"{text!r}: several sequences are measured while they write, as tg rows")
    return row


class Zonda:
    """The `zonda` program."""

    def __init__(self, path: Path, threads: int, settings: list):
        self.path, self.threads = path, threads
        self.settings = [word for setting in settings for word in ("--set", setting)]

    def version(self) -> list:
        return [self.path, "--version"]

    def bench(self, model: Path, row: Row, repetitions: int) -> list:
        lengths = {"pp": 0, "tg": 0, row.kind: row.tokens}
        return [self.path, "bench", "--json", "--model", model, "-t", self.threads, *self.settings,
                "-r", repetitions, "-p", lengths["pp"], "-n", lengths["tg"],
                "-b", row.sequences, "-d", row.depth]

    def probe(self) -> list:
        """Measures memory alone, with the small model that the program carries."""
        return [self.path, "bench", "--json", "-t", self.threads, "-p", 0, "-n", 0]

    def first_token(self, model: Path) -> list:
        return [self.path, "run", "--model", model, "-t", self.threads, *self.settings, "--raw",
                "--prompt", "a", "--max-tokens", 1, "--temperature", 0]

    def serve(self, model: Path, port: int, slots: int, context_tokens: int) -> list:
        """A daemon that takes `slots` answers at once, each with its question in so many tokens."""
        own = {"mqtt.enabled": "false", "engine.sequences_max": slots}
        if context_tokens > DEFAULT_CONTEXT_TOKENS:
            own["engine.context_tokens_max"] = context_tokens
        given = {setting.partition("=")[0].strip() for setting in self.settings}
        own = [word for key, value in own.items() if key not in given
               for word in ("--set", f"{key}={value}")]
        file = [] if model == BUILT_IN else ["--model", model]
        return [self.path, "serve", *file, "-t", self.threads, "--http", f"127.0.0.1:{port}",
                *own, *self.settings]

    @staticmethod
    def length(tokens: int) -> dict:
        """What a request says that wants exactly so many tokens."""
        return {"max_tokens": tokens, "min_tokens": tokens}

    @staticmethod
    def report(outcome: Outcome) -> dict:
        return read_json(outcome, outcome.output)


class Llama:
    """llama.cpp's `llama-bench` and its neighbours, which lie in one folder."""

    def __init__(self, path: Path, threads: int, words: list = ()):
        folder = path if path.is_dir() else path.parent
        self.single = path if path.is_file() else folder / "llama-bench"
        self.batched = folder / "llama-batched-bench"
        self.server = folder / "llama-server"
        # Passed on to the server.
        self.threads, self.words = threads, words

    def version(self) -> list:
        return [self.single, "--version"]

    def bench(self, model: Path, row: Row, repetitions: int, mode: str) -> list:
        if row.sequences == 1:
            lengths = {"pp": 0, "tg": 0, row.kind: row.tokens}
            return [self.single, "-m", model, "-t", self.threads, "-r", repetitions,
                    "-p", lengths["pp"], "-n", lengths["tg"], "-d", row.depth,
                    "--repack", MODES[mode], "-o", "json"]
        context = row.sequences * (row.filled + row.tokens)
        return [self.batched, "-m", model, "-t", self.threads, "-c", context,
                "-npp", row.filled, "-ntg", row.tokens,
                "-npl", ",".join([str(row.sequences)] * repetitions),
                "--repack" if MODES[mode] else "--no-repack", "--output-format", "jsonl"]

    def first_token(self, model: Path, mode: str) -> list:
        return [self.single, "-m", model, "-t", self.threads, "-p", 1, "-n", 0, "-r", 1,
                "--no-warmup", "--repack", MODES[mode], "-o", "json"]

    def serve(self, model: Path, port: int, slots: int, context_tokens: int, mode: str) -> list:
        """As zonda's. Each slot has its own part of the cache: that is faster than one for all."""
        return [self.server, "-m", model, "-t", self.threads, "--host", "127.0.0.1",
                "--port", port, "-np", slots, "-c", slots * context_tokens, "--no-kv-unified",
                "--no-ui", "--repack" if MODES[mode] else "--no-repack", *self.words]

    @staticmethod
    def length(tokens: int) -> dict:
        return {"max_tokens": tokens, "ignore_eos": True}

    @staticmethod
    def samples(outcome: Outcome, row: Row) -> list:
        """Tokens per second of all sequences together, one for each repetition."""
        if row.sequences == 1:
            samples = [rate for test in read_json(outcome, outcome.output)
                       for rate in test["samples_ts"]]
        else:
            # The log of the program may stand between the lines.
            lines = [line for line in outcome.output.splitlines() if line.startswith("{")]
            samples = [read_json(outcome, line)["speed_tg"] for line in lines]
        if not samples:
            raise Failed(f"{' '.join(outcome.command)}\n  measured nothing: {outcome.errors[-400:]}")
        return samples


def read_json(outcome: Outcome, text: str):
    try:
        return json.loads(text)
    except ValueError as error:
        shown = text.strip()[:200] or "nothing"
        raise Failed(f"{' '.join(outcome.command)}\n  printed no JSON ({error}): {shown}") from error

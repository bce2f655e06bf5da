#!/usr/bin/env python3
"""Compares the daemon of zonda and the server of llama.cpp on the same GGUF files, over HTTP.

In each round every row is measured by zonda and then by llama.cpp in its modes, each in a process
of its own that serves nothing else; memory is measured between any two. Prints Markdown. Without
--llama zonda alone is measured, and without --model with the model that it carries.

Rows: x4       4 clients, each asking anew as soon as it has its answer
      ttft512  the first token after a prompt of 512 tokens: new, and with another question
      gap4096  times between the tokens of an answer, before and while a prompt of 4096 arrives
"""

import argparse
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import serving_tables
from answers import Answer, Flow, Server, Texts
from children import Failed
from programs import BUILT_IN, MODES, Llama, Zonda
from rounds import Rounds, Run, machine, told, version, warm

DEFAULT_ROWS = "x1,x4,x8,ttft512,ttft2048,gap4096"
# A context is so much larger than what is meant to lie in it: texts have about their length.
SPARE_TOKENS = 128
# What the answer whose gaps are measured has read.
SHORT_PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Row:
    """`x4`, `ttft512` or `gap4096`."""

    kind: str
    size: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.size}"


def parse_row(text: str) -> Row:
    """Raises `ValueError` saying what is wrong."""
    found = re.fullmatch(r"(x|ttft|gap)([1-9]\d*)", text.strip())
    if not found:
        raise ValueError(f"{text!r} is no row: write x4, ttft512 or gap4096")
    return Row(found[1], int(found[2]))


@dataclass
class Served(Run):
    """A server and what its clients saw."""

    # Samples by figure, and what each request took.
    figures: dict = field(default_factory=dict)
    answers: list = field(default_factory=list)
    # Seconds from the start until it said that it was ready.
    start_s: float = 0.0

    def shown(self) -> str:
        return ", ".join(f"{name} {serving_tables.number(median(samples))}"
                         for name, samples in self.figures.items())

    def note(self, figure: str, answer: Answer):
        pieces = len(answer.arrivals)
        self.answers.append({"figure": figure, "prompt_tokens": answer.prompt_tokens,
                             "cached_tokens": answer.cached_tokens, "tokens": answer.tokens,
                             "pieces": pieces, "first_s": answer.first_s,
                             "whole_s": answer.ended - answer.sent})

    def note_first(self, figure: str, answer: Answer):
        """An answer of one token, whose time is the figure."""
        self.note(figure, answer)
        self.figures.setdefault(figure, []).append(answer.first_s)


class Serving(Rounds):
    """Everything that is measured, round by round."""

    def __init__(self, arguments):
        turns = [("zonda", "")]
        self.llama = None
        if arguments.llama:
            self.llama = Llama(arguments.llama, arguments.threads, arguments.llama_word)
            turns += [("llama.cpp", mode) for mode in arguments.modes]
        zonda = Zonda(arguments.zonda, arguments.threads, arguments.set)
        super().__init__(arguments, zonda, turns, arguments.rows)
        self.texts = {model: Texts(arguments.seed) for model in arguments.model}
        self.measures = {"x": self.clients, "ttft": self.first_tokens, "gap": self.gaps}

    def once(self, number: int, model: Path, row: Row, program: str, mode: str) -> Served:
        run, texts = Served(model.name, row.name, program, mode, number), self.texts[model]
        with self.server(model, row, program, mode) as server:
            run.command, run.start_s = server.child.command, server.start_s
            texts.settle(server, "first")
            self.measures[row.kind](server, texts, row, run)
        run.peak_bytes = max(outcome.peak_bytes for outcome in server.outcomes)
        run.wall_s = sum(outcome.wall_s for outcome in server.outcomes)
        run.others_share = max((outcome.others_share or 0) for outcome in server.outcomes)
        return run

    def server(self, model: Path, row: Row, program: str, mode: str) -> Server:
        """Room for what the row asks at once, and no more."""
        slots = {"x": row.size, "ttft": 1, "gap": 2}[row.kind]
        tokens = {"x": self.arguments.prompt + self.arguments.answer, "ttft": row.size,
                  "gap": SHORT_PROMPT_TOKENS + self.stream_tokens(row)}[row.kind]
        # The first questions of `Texts` have to fit too.
        context = -(-(max(tokens, 2 * SPARE_TOKENS) + SPARE_TOKENS) // 256) * 256

        def command(port: int) -> list:
            if program == "zonda":
                return self.zonda.serve(model, port, slots, context)
            return self.llama.serve(model, port, slots, context, mode)

        length = self.zonda.length if program == "zonda" else self.llama.length
        extra = {}
        if self.arguments.bias is not None:
            extra["logit_bias"] = {str(self.arguments.bias): 100}
        return Server(command, length, extra, self.arguments.timeout)

    def stream_tokens(self, row: Row) -> int:
        """More than an answer can get while a prompt is read, if each step reads some of it."""
        return self.arguments.quiet + row.size

    def clients(self, server: Server, texts: Texts, row: Row, run: Served):
        """So many clients, each asking anew as soon as it has its answer."""
        arguments = self.arguments

        def client(which: int) -> list:
            return [server.ask(texts.long(f"{run.round} {row.name} {which} {number}",
                                          arguments.prompt), arguments.answer)
                    for number in range(arguments.requests)]

        with ThreadPoolExecutor(row.size) as pool:
            answers = [answer for some in pool.map(client, range(row.size)) for answer in some]
        seconds = max(each.ended for each in answers) - min(each.sent for each in answers)
        run.figures["answer tokens/s"] = [sum(each.tokens for each in answers) / seconds]
        firsts = [each.first_s for each in answers if each.first_s is not None]
        if firsts:
            run.figures["first token, median s"] = [median(firsts)]
        for answer in answers:
            run.note("answer tokens/s", answer)

    def first_tokens(self, server: Server, texts: Texts, row: Row, run: Served):
        """The first token after a new text, and after the same with another question."""
        for number in range(self.arguments.repetitions):
            name = f"{run.round} {row.name} {number}"
            for question, figure in enumerate(["first token, new, s", "first token, repeated, s"]):
                run.note_first(figure, server.ask(texts.long(name, row.size, question), 1))
        if self.arguments.restart and run.program == "zonda":
            server.stop()
            server.start()
            texts.settle(server, "first after restart")
            run.note_first("first token, restarted, s",
                           server.ask(texts.long(name, row.size, 2), 1))

    def gaps(self, server: Server, texts: Texts, row: Row, run: Served):
        """Times between pieces of one answer, before and while a long prompt is read."""
        name = f"{run.round} {row.name}"
        # The first piece of an answer only names the role.
        stream = Flow(server, texts.long(f"{name} stream", SHORT_PROMPT_TOKENS),
                      self.stream_tokens(row), self.arguments.quiet + 2)
        stream.start()
        stream.begun.wait()
        long = server.ask(texts.long(f"{name} prompt", row.size), 1) if stream.is_alive() else None
        stream.enough.set()
        stream.join()
        arrivals = stream.answer().arrivals
        read = long.sent + long.first_s if long else 0
        if not long or not arrivals or arrivals[-1] < read:
            raise stream.failed(f"the stream ended after {len(arrivals)} pieces of text, before "
                                "the prompt beside it was read (--bias gives each token a text)")
        pairs = list(zip(arrivals, arrivals[1:]))
        gaps = {"before": [end - start for start, end in pairs if end <= long.sent],
                "while reading": [end - start for start, end in pairs
                                  if end > long.sent and start < read]}
        for when, samples in gaps.items():
            for figure, value in [("median", median(samples)),
                                  ("p99", serving_tables.percentile(samples, 0.99)),
                                  ("max", max(samples))]:
                run.figures[f"gap {when}, {figure} ms"] = [1000 * value]
        meanwhile = sum(long.sent < arrival <= read for arrival in arrivals)
        run.figures[serving_tables.MEANWHILE] = [meanwhile / (read - long.sent)]
        run.note_first("first token of the prompt, s", long)
        run.answers[-1]["gaps_s"] = gaps


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--zonda", type=Path, required=True, metavar="PATH", help="the zonda program")
    add("--llama", type=Path, metavar="FOLDER", help="the folder of llama-server")
    add("--model", type=Path, action="append", default=[], metavar="FILE",
        help="a GGUF file; may be repeated")
    add("--rows", default=DEFAULT_ROWS, metavar="ROW,…", help=f"default {DEFAULT_ROWS}")
    add("--modes", default=",".join(MODES), metavar="MODE,…",
        help="of llama.cpp: repack, plain or both; default both")
    add("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    add("--rounds", type=int, default=3, metavar="N", help="default 3")
    add("--requests", type=int, default=3, metavar="N", help="of each client; default 3")
    add("--prompt", type=int, default=128, metavar="N",
        help="tokens that clients send; default 128")
    add("--answer", type=int, default=64, metavar="N", help="tokens that clients want; default 64")
    add("--repetitions", type=int, default=2, metavar="N",
        help="texts in each process of a ttft row; default 2")
    add("--quiet", type=int, default=64, metavar="N",
        help="tokens of the answer before the prompt of a gap row arrives; default 64")
    add("--restart", action="store_true",
        help="ttft rows: ask once more after the daemon of zonda was started anew")
    add("--bias", type=int, metavar="TOKEN",
        help="the token that answers consist of; for random weights, whose choice may have no text")
    add("--seed", type=int, default=int(time.time()), metavar="N",
        help="of the texts; by default others each time, so that no cache on disk knows them")
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="passed on to zonda, for example memory.kv_pool_bytes=4GiB; may be repeated")
    add("--llama-word", action="append", default=[], metavar="WORD",
        help="passed on to llama-server, as --llama-word=-ub --llama-word=128; may be repeated")
    add("--timeout", type=float, default=3600, metavar="S",
        help="seconds without a sign of life, and for a start or an end; default 3600")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    arguments.modes = [mode.strip() for mode in arguments.modes.split(",") if mode.strip()]
    try:
        arguments.rows = [parse_row(row) for row in arguments.rows.split(",") if row.strip()]
    except ValueError as error:
        parser.error(str(error))
    if unknown := set(arguments.modes) - set(MODES):
        parser.error(f"--modes: {', '.join(sorted(unknown))} is none of {', '.join(MODES)}")
    for path in [arguments.zonda, arguments.llama, *arguments.model]:
        if path and not path.exists():
            parser.error(f"{path} is not there")
    if arguments.llama and not arguments.model:
        parser.error("llama.cpp needs a --model")
    for name in ("threads", "rounds", "requests", "prompt", "answer", "repetitions", "quiet"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be 1 or more")
    if len({model.name for model in arguments.model}) < len(arguments.model):
        parser.error("two models have the same file name: the table could not tell them apart")
    arguments.zonda = arguments.zonda.resolve()
    arguments.llama = arguments.llama and arguments.llama.resolve()
    arguments.model = arguments.model or [BUILT_IN]
    return arguments


def facts_of(serving: Serving) -> dict:
    arguments = serving.arguments
    versions = {"zonda": version(serving.zonda.version(), arguments.timeout)}
    if serving.llama:
        versions["llama.cpp"] = version([serving.llama.server, "--version"], arguments.timeout)
    return {"machine": machine(), "versions": versions, "threads": arguments.threads,
            "rounds": arguments.rounds, "requests": arguments.requests,
            "prompt_tokens": arguments.prompt, "answer_tokens": arguments.answer,
            "repetitions": arguments.repetitions, "quiet_tokens": arguments.quiet,
            "seed": arguments.seed, "bias": arguments.bias, "settings": arguments.set,
            "llama_words": arguments.llama_word,
            "programs": [" ".join(turn).strip() for turn in serving.turns],
            "rows": [row.name for row in arguments.rows],
            "models": {model.name: None if model == BUILT_IN else model.stat().st_size
                       for model in arguments.model}}


def main() -> int:
    arguments = parsed()
    serving = Serving(arguments)
    try:
        facts = facts_of(serving)
        for model in arguments.model:
            if model != BUILT_IN:
                warm(model)
        serving.measure()
    except Failed as failed:
        print(f"serving.py: {failed}", file=sys.stderr)
        return 1
    told(serving, facts, serving_tables)
    return 1 if serving.failures else 0


if __name__ == "__main__":
    sys.exit(main())

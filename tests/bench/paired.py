#!/usr/bin/env python3
"""Compares the speed of zonda and llama.cpp on the same GGUF files, side by side.

In each round every row is measured by zonda and then by llama.cpp in both of its modes, on the same
file with the same threads; memory is measured between any two runs. Prints Markdown.
"""

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import children
import tables
from children import Failed
from programs import MODES, Llama, Row, Zonda, parse_row
from rounds import Rounds, Run, machine, told, version, warm

DEFAULT_ROWS = "pp512,tg64,tg32x8"


@dataclass
class Timed(Run):
    """A benchmark's process and what it printed."""

    # Tokens per second of all sequences together; empty for a run that loads and gives one token.
    samples: list = field(default_factory=list)
    # The program's own report, where it is one object.
    report: dict = field(default_factory=dict)

    def shown(self) -> str:
        return f"{tables.median(self.samples):.2f} t/s" if self.samples else f"{self.wall_s:.2f} s"


class Pairing(Rounds):
    """Everything that is measured, round by round."""

    nameless = tables.FIRST_TOKEN

    def __init__(self, arguments):
        turns = [("zonda", ""), *(("llama.cpp", mode) for mode in MODES)]
        zonda = Zonda(arguments.zonda, arguments.threads, arguments.set)
        # Without a row, the way from the start to the first token.
        super().__init__(arguments, zonda, turns, [*arguments.rows, None])
        self.llama = Llama(arguments.llama, arguments.threads)

    def once(self, number: int, model: Path, row: Row | None, program: str, mode: str) -> Timed:
        repetitions = self.arguments.repetitions
        if program == "zonda":
            command = self.zonda.bench(model, row, repetitions) if row \
                else self.zonda.first_token(model)
        else:
            command = self.llama.bench(model, row, repetitions, mode) if row \
                else self.llama.first_token(model, mode)
        outcome = children.run(command, self.arguments.timeout)
        samples, report, peak_bytes = [], {}, outcome.peak_bytes
        if row and program == "zonda":
            report = self.zonda.report(outcome)
            samples = report["rows"][0]["samples"]
            # Its own count leaves out the buffer that it measures memory with.
            peak_bytes = report.get("peak_resident_bytes") or peak_bytes
        elif row:
            samples = self.llama.samples(outcome, row)
        return Timed(model.name, self.name(row), program, mode, number, peak_bytes, outcome.wall_s,
                     outcome.others_share, command=outcome.command, samples=samples, report=report)


def versions(pairing: Pairing) -> dict:
    timeout_s = pairing.arguments.timeout
    return {"zonda": version(pairing.zonda.version(), timeout_s),
            "llama.cpp": version(pairing.llama.version(), timeout_s)}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--zonda", type=Path, required=True, metavar="PATH", help="the zonda program")
    add("--llama", type=Path, required=True, metavar="PATH",
        help="llama-bench, or the folder of it and llama-batched-bench")
    add("--model", type=Path, action="append", required=True, metavar="FILE",
        help="a GGUF file; may be repeated")
    add("--rows", default=DEFAULT_ROWS, metavar="ROW,…",
        help=f"pp512, tg64, tg32x8, tg32@d8192 …; default {DEFAULT_ROWS}")
    add("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    add("--rounds", type=int, default=3, metavar="N", help="default 3")
    add("--repetitions", type=int, default=2, metavar="N",
        help="in each process, after one that warms up; default 2")
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="passed on to zonda, for example memory.kv_pool_bytes=4GiB; may be repeated")
    add("--timeout", type=float, default=3600, metavar="S",
        help="seconds that one process may take; default 3600")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--svg", type=Path, metavar="FILE", help="draw the ratios")
    arguments = parser.parse_args()
    try:
        arguments.rows = [parse_row(row) for row in arguments.rows.split(",") if row.strip()]
    except ValueError as error:
        parser.error(str(error))
    for path in [arguments.zonda, arguments.llama, *arguments.model]:
        if not path.exists():
            parser.error(f"{path} is not there")
    for name in ("threads", "rounds", "repetitions"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be 1 or more")
    if len({model.name for model in arguments.model}) < len(arguments.model):
        parser.error("two models have the same file name: the table could not tell them apart")
    arguments.zonda, arguments.llama = arguments.zonda.resolve(), arguments.llama.resolve()
    return arguments


def main() -> int:
    arguments = parsed()
    pairing = Pairing(arguments)
    try:
        facts = {"machine": machine(), "versions": versions(pairing),
                 "threads": arguments.threads, "rounds": arguments.rounds,
                 "repetitions": arguments.repetitions, "settings": arguments.set,
                 "rows": [row.name for row in arguments.rows],
                 "models": {model.name: model.stat().st_size for model in arguments.model}}
        for model in arguments.model:
            warm(model)
        pairing.measure()
    except Failed as failed:
        print(f"paired.py: {failed}", file=sys.stderr)
        return 1
    summaries = told(pairing, facts, tables)
    if arguments.svg:
        arguments.svg.write_text(tables.svg(facts, summaries))
    return 1 if pairing.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Takes each row by each program in turn, round by round, with a look at memory between any two."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import children
from children import Failed


@dataclass
class Run:
    """One process of one row; what it measured beside this is the business of each comparison."""

    model: str
    row: str
    program: str
    mode: str
    round: int
    peak_bytes: int = 0
    wall_s: float = 0.0
    others_share: float | None = None
    # Bytes per second that all threads read from memory immediately before and after.
    bandwidth_before: float = 0.0
    bandwidth_after: float = 0.0
    command: list = field(default_factory=list)


class Rounds:
    """What all comparisons have in common; how one row is measured is the business of `once`.

    `arguments` has `rounds`, `model` and `timeout`; `rows` may hold None, whose name is
    `nameless`. What `once` gives is a `Run` that says in `shown` what it found.
    """

    nameless = ""

    def __init__(self, arguments, zonda, turns: list, rows: list):
        self.arguments, self.zonda, self.turns, self.rows = arguments, zonda, turns, rows
        self.runs, self.failures = [], {}

    def once(self, number: int, model: Path, row, program: str, mode: str):
        """Measures one row with one program in one mode."""
        raise NotImplementedError

    def name(self, row) -> str:
        return row.name if row else self.nameless

    def measure(self):
        for number in range(1, self.arguments.rounds + 1):
            for model in self.arguments.model:
                for row in self.rows:
                    self.compare(number, model, row)

    def compare(self, number: int, model: Path, row):
        """One row of one round."""
        before = self.bandwidth()
        for program, mode in self.turns:
            name = self.name(row)
            key = (model.name, name, program, mode)
            if key in self.failures:
                continue
            print(f"round {number} {model.name} {name}: {program} {mode}", end=" ",
                  file=sys.stderr, flush=True)
            try:
                run = self.once(number, model, row, program, mode)
            except Failed as failed:
                print("failed", file=sys.stderr)
                print(f"  {failed}", file=sys.stderr)
                self.failures[key] = str(failed)
                before = self.bandwidth()
                continue
            after = self.bandwidth()
            # Each look at memory reads it twice: first for the run before it, then for the next.
            run.bandwidth_before, run.bandwidth_after = before[1], after[0]
            before = after
            self.runs.append(run)
            print(run.shown(), file=sys.stderr)

    def bandwidth(self) -> tuple:
        report = self.zonda.report(children.run(self.zonda.probe(), self.arguments.timeout))
        return report["bandwidth_before_bytes_per_s"], report["bandwidth_after_bytes_per_s"]

    def listed_failures(self) -> list:
        return [{"model": key[0], "row": key[1], "program": key[2], "mode": key[3], "why": why}
                for key, why in self.failures.items()]


def told(rounds: Rounds, facts: dict, tables) -> dict:
    """Prints what was measured as Markdown and writes the JSON that was asked for; gives summaries."""
    runs = [asdict(run) for run in rounds.runs]
    summaries = tables.summaries(facts, runs)
    print(tables.markdown(facts, runs, summaries, rounds.failures))
    if rounds.arguments.json:
        whole = {**facts, "summaries": summaries, "failures": rounds.listed_failures(),
                 "runs": runs}
        rounds.arguments.json.write_text(json.dumps(whole, indent=1) + "\n")
    return summaries


def version(command: list, timeout_s: float) -> str:
    """What a program says that it is."""
    outcome = children.run(command, timeout_s)
    lines = (outcome.output + outcome.errors).strip().splitlines()
    return ", ".join(line.strip() for line in lines[:2])


def machine() -> dict:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(terse=True),
            "load_average": round(os.getloadavg()[0], 2)}


def warm(model: Path):
    """Reads the file once, so that no program pays for the disk on behalf of the others."""
    with model.open("rb") as file:
        # Small pieces: a child's peak counts this process' own size, from before the child's start.
        while file.read(1 << 18):
            pass

#!/usr/bin/env python3
"""Compares what zonda and llama.cpp answer with the same GGUF files, beside how fast they do.

Both read a fixed text; at each place in the second half of each piece of it their probabilities of
the next token are compared. With `--golden`, llama.cpp's greedy answers are followed as well.
Prints Markdown.
"""

import argparse
import json
import math
import struct
import sys
import tempfile
from array import array
from pathlib import Path
from statistics import fmean

import children
from children import Failed

MAGIC = b"_logits_"
# llama-perplexity writes nothing smaller than this many nats below the likeliest token.
RANGE = 16.0


class Places:
    """Where a text is scored, and the log-probabilities that llama.cpp gives there.

    Read from the file that llama-perplexity writes: pieces of so many tokens, each scored in its
    second half, log-probabilities in 16 bits over a range of 16.
    """

    def __init__(self, path: Path):
        data = memoryview(path.read_bytes())
        if bytes(data[:8]) != MAGIC or len(data) < 20:
            raise Failed(f"{path} holds no log-probabilities")
        piece, vocabulary, pieces = struct.unpack_from("<3i", data, 8)
        tokens = array("i", data[20:20 + 4 * piece * pieces].tobytes())
        first, words = piece // 2, 2 * ((vocabulary + 1) // 2) + 4
        at = 20 + 4 * len(tokens)
        # Token ids up to each place, the token that follows, and the log-probability of each token.
        self.prefixes, self.next, self.expected = [], [], []
        for start in range(0, len(tokens), piece):
            # A piece begins with the token that begins a text, whatever stands there.
            ids = [tokens[0], *tokens[start + 1:start + piece]]
            for place in range(first, piece - 1):
                scale, least = struct.unpack_from("<2f", data, at)
                row = array("H", data[at + 8:at + 8 + 2 * vocabulary].tobytes())
                if len(row) < vocabulary:
                    raise Failed(f"{path} ends early")
                self.prefixes.append(ids[:place + 1])
                self.next.append(ids[place + 1])
                self.expected.append(log_softmax([scale * value + least for value in row]))
                at += 2 * words


def llama_places(arguments, model: Path, folder: Path) -> tuple:
    """llama.cpp's log-probabilities over the text, and the perplexity that it states."""
    path = folder / "log-probabilities"
    command = [arguments.llama, "-m", model, "-f", arguments.text, "-t", arguments.threads,
               "-c", arguments.context, "-b", arguments.context, "--chunks", arguments.pieces,
               "--save-all-logits", path]
    outcome = children.run(command, arguments.timeout)
    words = outcome.output + outcome.errors
    if "Final estimate: PPL = " not in words:
        raise Failed(f"{' '.join(outcome.command)}\n  gave no perplexity:\n  "
                     + "\n  ".join(words.strip().splitlines()[-5:]))
    stated = float(words.split("Final estimate: PPL = ")[1].split()[0])
    return Places(path), stated


def zonda_logits(arguments, model: Path, prefixes: list) -> list:
    """zonda's logits of the token after each prefix."""
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    questions = "".join(json.dumps({"tokens": prefix}) + "\n" for prefix in prefixes)
    command = [arguments.zonda, "logits", "--model", model, "-t", arguments.threads, *settings]
    outcome = children.run(command, arguments.timeout, given=questions)
    answers = [json.loads(line) for line in outcome.output.splitlines()]
    for answer in answers:
        if "logits_last" not in answer:
            raise Failed(f"{' '.join(outcome.command)}\n  {answer.get('error', answer)}")
    if len(answers) != len(prefixes):
        raise Failed(f"{' '.join(outcome.command)}\n  answered {len(answers)} of {len(prefixes)}")
    return [answer["logits_last"] for answer in answers]


def log_softmax(logits: list) -> list:
    most = max(logits)
    total = math.log(math.fsum(math.exp(logit - most) for logit in logits))
    return [logit - most - total for logit in logits]


def cut(row: list) -> list:
    """Log-probabilities over the range that llama-perplexity writes, or the far tail alone would
    make a divergence of 1e-4."""
    least = max(row) - RANGE
    return log_softmax([max(value, least) for value in row])


def divergence(expected: list, found: list) -> float:
    """What coding by `found` costs beyond coding by `expected`, in nats (Kullback-Leibler)."""
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(expected, found))


def likeliest(values: list) -> int:
    """The lowest id among those with the highest value."""
    return values.index(max(values))


def perplexity(places: Places, rows: list) -> float:
    return math.exp(-fmean(row[token] for row, token in zip(rows, places.next)))


def follow_text(arguments, model: Path, folder: Path, reference: Places | None) -> dict:
    """Perplexity, divergence and agreement of both programs over the text."""
    places, stated = llama_places(arguments, model, folder)
    rows = [log_softmax(row) for row in zonda_logits(arguments, model, places.prefixes)]
    cut_rows = [cut(row) for row in rows]
    agreeing, gaps = 0, []
    for expected, found in zip(places.expected, rows):
        choice = likeliest(found)
        # What 16 bits cannot tell apart is no disagreement.
        gap = max(expected) - expected[choice]
        agreeing += gap == 0
        gaps.append(gap)
    facts = {"places": len(rows), "perplexity_zonda": perplexity(places, rows),
             "perplexity_llama": stated,
             "divergence": fmean(map(divergence, places.expected, cut_rows)),
             "agreeing": agreeing, "largest_gap": max(gaps)}
    if reference:
        if reference.prefixes != places.prefixes:
            raise Failed(f"{model.name} has other tokens than the reference")
        facts["divergence_reference_zonda"] = fmean(
            map(divergence, reference.expected, cut_rows))
        facts["divergence_reference_llama"] = fmean(
            map(divergence, reference.expected, places.expected))
    return facts


def follow_golden(arguments, model: Path) -> dict | None:
    """How far zonda's greedy answers go along with those of llama.cpp.

    Each token is asked for after llama.cpp's own ones before it: up to the first difference this
    is zonda's own greedy answer.
    """
    path = arguments.golden / f"{model.stem}.llamacpp.json"
    if not path.is_file():
        return None
    cases = json.loads(path.read_text())["cases"]
    prefixes = [case["tokens"] + case["greedy"][:count]
                for case in cases for count in range(len(case["greedy"]))]
    choices = iter([likeliest(row) for row in zonda_logits(arguments, model, prefixes)])
    facts = {"cases": len(cases), "equal": 0, "tokens": 0, "before_difference": 0,
             "differences": []}
    for case in cases:
        answer = [next(choices) for _ in case["greedy"]]
        same = next((at for at, (own, theirs) in enumerate(zip(answer, case["greedy"]))
                     if own != theirs), len(answer))
        facts["tokens"] += len(answer)
        facts["before_difference"] += same
        if same == len(answer):
            facts["equal"] += 1
            continue
        likely = dict(map(tuple, case["logprobs"][same])) if case.get("logprobs") else {}
        gap = likely.get(case["greedy"][same], math.nan) - likely.get(answer[same], math.nan)
        facts["differences"].append({"case": case["id"], "at": same,
                                     "gap": None if math.isnan(gap) else gap})
    return facts


def largest_gap(golden: dict) -> str:
    gaps = [difference["gap"] for difference in golden["differences"]]
    if not gaps:
        return ""
    return ", gap unknown" if None in gaps else f", gap {max(gaps):.3f}"


def markdown(models: list, has_reference: bool) -> str:
    columns = ["model", "perplexity zonda", "perplexity llama.cpp", "divergence, nats",
               "same first choice", "largest gap, nats"]
    if has_reference:
        columns += ["to reference: zonda", "to reference: llama.cpp"]
    columns += ["greedy answers equal", "greedy tokens before a difference"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for model in models:
        text, golden = model["text"], model["golden"]
        cells = [model["name"], f"{text['perplexity_zonda']:.4f}",
                 f"{text['perplexity_llama']:.4f}", f"{text['divergence']:.2e}",
                 f"{text['agreeing']} of {text['places']}", f"{text['largest_gap']:.3f}"]
        if has_reference:
            cells += [f"{text['divergence_reference_zonda']:.2e}",
                      f"{text['divergence_reference_llama']:.2e}"]
        cells += ["–", "–"] if not golden else [
            f"{golden['equal']} of {golden['cases']}",
            f"{golden['before_difference']} of {golden['tokens']}{largest_gap(golden)}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--zonda", type=Path, required=True, metavar="PATH", help="the zonda program")
    add("--llama", type=Path, required=True, metavar="PATH",
        help="llama-perplexity, or its folder")
    add("--models", type=Path, nargs="+", required=True, metavar="PATH",
        help="GGUF files, and folders of them")
    add("--text", type=Path, default=Path(__file__).parent / "story.txt", metavar="FILE",
        help="default: a story, in the words that models of a few hundred thousand parameters know")
    add("--reference", type=Path, metavar="FILE",
        help="the same model unrounded: both programs' divergence from llama.cpp with it")
    add("--golden", type=Path, metavar="FOLDER",
        help="NAME.llamacpp.json: greedy answers of llama.cpp with the model NAME.gguf")
    add("--context", type=int, default=128, metavar="N", help="tokens of a piece; default 128")
    add("--pieces", type=int, default=6, metavar="N", help="pieces of the text; default 6")
    add("--threads", type=int, default=2, metavar="N", help="default 2")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to zonda")
    add("--timeout", type=float, default=3600, metavar="S", help="for one process; default 3600")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    if arguments.context < 4 or arguments.pieces < 1 or arguments.threads < 1:
        parser.error("--context must be 4 or more, --pieces and --threads 1 or more")
    if arguments.llama.is_dir():
        arguments.llama /= "llama-perplexity"
    files = [file for path in arguments.models
             for file in (sorted(path.glob("*.gguf")) if path.is_dir() else [path])]
    if not files:
        parser.error("--models: no GGUF file there")
    optional = [path for path in (arguments.reference, arguments.golden) if path]
    for path in [arguments.zonda, arguments.llama, arguments.text, *files, *optional]:
        if not path.exists():
            parser.error(f"{path} is not there")
    arguments.models = files
    arguments.zonda, arguments.llama = arguments.zonda.resolve(), arguments.llama.resolve()
    return arguments


def main() -> int:
    arguments = parsed()
    models, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        try:
            reference = None
            if arguments.reference:
                reference = llama_places(arguments, arguments.reference, folder)[0]
        except Failed as failure:
            print(f"quality.py: {failure}", file=sys.stderr)
            return 1
        for model in arguments.models:
            try:
                text = follow_text(arguments, model, folder, reference)
                golden = follow_golden(arguments, model) if arguments.golden else None
            except Failed as failure:
                print(f"quality.py: {model.name}: {failure}", file=sys.stderr)
                failed = True
                continue
            models.append({"name": model.stem, "text": text, "golden": golden})
    if models:
        print(markdown(models, arguments.reference is not None))
    if arguments.json:
        arguments.json.write_text(json.dumps(models, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Speed on a GPU: weights of true sizes made on the spot, each row a share of what memory gives.

    tests/bench/gpu.py --zonda target/release/zonda --backend cuda

Nothing else is needed: no model file, no package. With --llama and --model, llama.cpp's llama-bench
runs the same rows on that file between zonda's.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

# Sizes that fit a card of 80 GB, and what each is measured with. A size that does not fit says so.
PLAN = [
    ("7b", "q4_k_m", ["pp512", "pp4096", "tg128", "tg64x8", "tg64x32", "tg64@d4096"]),
    ("7b", "q8_0", ["pp512", "tg128"]),
    ("22b", "q4_k_m", ["pp512", "tg128", "tg64x8"]),
    ("123b", "q4_k_m", ["pp512", "tg32"]),
]
SHORT_PLAN = [("tiny", mix, ["pp64", "tg8", "tg8x4"]) for mix in ("q4_k_m", "q8_0")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--zonda", type=Path, required=True, help="the program")
    parser.add_argument("--backend", action="append", help="cuda, vulkan, wgpu or metal; may be repeated")
    parser.add_argument("--dry", action="store_true", help="a tiny model, to see that all rows run")
    parser.add_argument("--seconds", type=float, default=570, help="start no row after so many seconds")
    parser.add_argument("--llama", type=Path, help="folder with llama-bench")
    parser.add_argument("--model", type=Path, help="GGUF file for llama-bench")
    parser.add_argument("--json", type=Path, help="write everything here")
    return parser.parse_args()


def options(row: str) -> list:
    """The arguments of a row such as `tg64x8@d4096`."""
    name, _, depth = row.partition("@d")
    name, _, sequences = name.partition("x")
    kind, tokens = name[:2], name[2:]
    lengths = {"pp": "0", "tg": "0", kind: tokens}
    return ["-p", lengths["pp"], "-n", lengths["tg"], "-b", sequences or "1", "-d", depth or "0"]


def run(command: list, seconds: float) -> tuple:
    """Output, or the last words of what failed."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        return None, "not done in time"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done.stdout, None


def measure(options_: argparse.Namespace, backend: str, size: str, mix: str, rows: list, left) -> list:
    """One load for rows of one batch and depth, which is what the program takes together."""
    found = []
    for row in rows:
        if left() <= 0:
            found.append({"row": row, "error": "no time left"})
            continue
        command = [options_.zonda, "bench", "--json", "--size", size, "--encoding", mix, "-r", "3",
                   "--backend", backend, "--set", "memory.model_budget_bytes=200GiB",
                   "--set", "memory.reserve_bytes=0", "--set", "engine.sequences_max=32",
                   "--set", "memory.kv_pool_bytes=4GiB", *options(row)]
        output, error = run(command, left())
        report = json.loads(output) if output else None
        found.append({"row": row, "error": error, "report": report})
        print(line(backend, size, mix, found[-1]), flush=True)
    return found


def line(backend: str, size: str, mix: str, found: dict) -> str:
    start = f"| {backend} | {size} {mix} | {found['row']} |"
    if found.get("error"):
        return f"{start} {found['error']} | | |"
    report = found["report"]
    row = report["rows"][0]
    share = row.get("bandwidth_share")
    rate = row["tokens_per_s"]
    return (f"{start} {rate['median']:.1f} ({rate['min']:.1f}–{rate['max']:.1f}) | "
            f"{'' if share is None else f'{share:.2f}'} | {report['load_s']:.1f} |")


def facts() -> dict:
    driver, _ = (run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total",
                      "--format=csv,noheader"], 20) if which("nvidia-smi") else (None, None))
    commit, _ = run(["git", "rev-parse", "--short", "HEAD"], 20) if which("git") else (None, None)
    return {"gpu": (driver or "unknown").strip(), "commit": (commit or "unknown").strip()}


def which(name: str) -> bool:
    from shutil import which as found
    return found(name) is not None


def main() -> int:
    asked = arguments()
    began = time.monotonic()

    def left() -> float:
        return asked.seconds - (time.monotonic() - began)

    known = facts()
    print(f"{known['gpu']}; commit {known['commit']}\n")
    print("| backend | model | row | tokens/s, median (least–most) | share of memory | load, s |")
    print("|---|---|---|---|---|---|")
    results = []
    for backend in asked.backend or ["cuda"]:
        for size, mix, rows in SHORT_PLAN if asked.dry else PLAN:
            measured = measure(asked, backend, size, mix, rows, left)
            results.append({"backend": backend, "size": size, "mix": mix, "rows": measured})
    if asked.llama and asked.model:
        output, error = run([asked.llama / "llama-bench", "-m", asked.model, "-ngl", "99", "-p", "512",
                             "-n", "128", "-o", "md"], left())
        print(f"\nllama.cpp\n\n{output or error}")
    if asked.json:
        asked.json.write_text(json.dumps({"facts": known, "results": results}))
    failed = [row for result in results for row in result["rows"] if row.get("error")]
    return 1 if failed and asked.dry else 0


if __name__ == "__main__":
    sys.exit(main())

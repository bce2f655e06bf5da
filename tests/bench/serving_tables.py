"""From runs of servers to medians and ratios, and to Markdown of them."""

import math
from statistics import median

from tables import bandwidth_cell, doubtful

MEANWHILE = "answer tokens/s while reading"
# Figures of which more is better; of all others, which are times, less is.
RATES = {"answer tokens/s", MEANWHILE}


def percentile(samples: list, share: float) -> float:
    """The smallest sample that is not less than this share of all of them."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def summaries(facts: dict, runs: list) -> list:
    """One for each model, row and figure that was measured.

    `ratio` is the median over rounds of how much faster zonda is than llama.cpp in the mode that is
    best over all rounds: rate ÷ rate, and for times the other way round.
    """
    found = []
    for model in facts["models"]:
        for row in facts["rows"]:
            here = [run for run in runs if (run["model"], run["row"]) == (model, row)]
            names = dict.fromkeys(name for run in here for name in run["figures"])
            found += [summary(model, row, name, here) for name in names]
    return found


def summary(model: str, row: str, name: str, here: list) -> dict:
    groups = {}
    for run in here:
        if name in run["figures"]:
            program = f"{run['program']} {run['mode']}".strip()
            groups.setdefault(program, []).append(run)
    values = {program: figures(name, group) for program, group in groups.items()}
    result = {"model": model, "row": row, "figure": name, "programs": values}
    peers = [program for program in groups if program != "zonda"]
    if "zonda" in groups and peers:
        choose = max if name in RATES else min
        best = choose(peers, key=lambda program: values[program]["median"])
        peer = {run["round"]: run for run in groups[best]}
        ratios = []
        for run in groups["zonda"]:
            if run["round"] in peer:
                own, other = (median(each["figures"][name]) for each in (run, peer[run["round"]]))
                ratios.append(own / other if name in RATES else other / own)
        if ratios:
            result.update(best=best, ratios=ratios, ratio=median(ratios))
    return result


def figures(name: str, runs: list) -> dict:
    samples = [sample for run in runs for sample in run["figures"][name]]
    readings = [run[key] for run in runs for key in ("bandwidth_before", "bandwidth_after")]
    asked = [answer for run in runs for answer in run["answers"] if answer["figure"] == name]
    tokens = {key: median(answer[key] for answer in asked)
              for key in ("prompt_tokens", "cached_tokens") if asked}
    return {"median": median(samples), "min": min(samples), "max": max(samples),
            "count": len(samples), "bandwidth": median(readings),
            "bandwidth_min": min(readings), "bandwidth_max": max(readings), **tokens}


def markdown(facts: dict, runs: list, summaries: list, failures: dict) -> str:
    box, lines = facts["machine"], []
    lines.append(f"{box['cpu']}, {box['cores']} cores, {box['system']}; load average "
                 f"{box['load_average']} at the start; threads: {facts['threads']}, rounds: "
                 f"{facts['rounds']}; clients ask {facts['requests']} times each, "
                 f"{facts['prompt_tokens']} tokens for {facts['answer_tokens']}; "
                 f"texts of first tokens: {facts['repetitions']}; seed {facts['seed']}")
    lines += ["", *(f"* {name}: {words}" for name, words in facts["versions"].items())]
    for model, size in facts["models"].items():
        lines += ["", f"## {model} ({size / 1e9:.2f} GB)" if size else f"## {model}", ""]
        lines += table(facts, [each for each in summaries if each["model"] == model])
        lines += ["", *starts([run for run in runs if run["model"] == model], facts)]
    doubts = doubtful(runs) + silent(runs)
    if doubts:
        lines += ["", *doubts]
    for (model, row, program, mode), why in failures.items():
        lines += ["", f"**failed**: {program} {mode} {model} {row}", "```", why, "```"]
    return "\n".join(lines)


def table(facts: dict, summaries: list) -> list:
    peers = [program for program in facts["programs"] if program != "zonda"]
    heads = ["row", "figure", *facts["programs"]]
    heads += ["ratio", "by round"] if peers else []
    heads += ["prompt tokens (cached), zonda"]
    heads += ["prompt tokens (cached), llama.cpp", "memory GB/s, zonda",
              "memory GB/s, llama.cpp"] if peers else ["memory GB/s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in summaries:
        best = each.get("best")
        values = each["programs"]
        cells = [each["row"], each["figure"]]
        cells += [figure_cell(values.get(program), program == best)
                  for program in facts["programs"]]
        if peers:
            ratios = each.get("ratios")
            cells += [f"**{each['ratio']:.2f}**" if ratios else "–",
                      f"{min(ratios):.2f}–{max(ratios):.2f}" if ratios else "–"]
        cells.append(tokens_cell(values.get("zonda")))
        if peers:
            cells.append(tokens_cell(values.get(best)))
        cells.append(bandwidth_cell(values.get("zonda")))
        if peers:
            cells.append(bandwidth_cell(values.get(best)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def figure_cell(values: dict | None, best: bool) -> str:
    if not values:
        return "–"
    mark = "**" if best else ""
    middle = f"{mark}{number(values['median'])}{mark}"
    if values["count"] == 1:
        return middle
    return f"{middle} ({number(values['min'])}–{number(values['max'])})"


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def tokens_cell(values: dict | None) -> str:
    if not values or "prompt_tokens" not in values:
        return ""
    return f"{values['prompt_tokens']:.0f} ({values['cached_tokens']:.0f})"


def starts(runs: list, facts: dict) -> list:
    if not runs:
        return []
    lines = ["| program | start until ready, s | peak memory of any row, MB |", "|---|---|---|"]
    for program in facts["programs"]:
        group = [run for run in runs if f"{run['program']} {run['mode']}".strip() == program]
        if group:
            lines.append(f"| {program} | {number(median(run['start_s'] for run in group))} "
                         f"| {max(run['peak_bytes'] for run in group) / 1e6:.0f} |")
    return lines


def silent(runs: list) -> list:
    """Says where tokens came without a text of their own: gaps and first tokens look longer."""
    found = []
    for run in runs:
        tokens = sum(answer["tokens"] for answer in run["answers"])
        pieces = sum(answer["pieces"] for answer in run["answers"])
        if pieces < 0.9 * tokens:
            found.append(f"{run['model']} {run['row']} {run['program']} {run['mode']}".strip()
                         + f" {pieces / tokens:.2f}")
    if not found:
        return []
    return ["**Tokens without text**: fewer than 0.9 pieces of text came per token, so that times "
            f"between tokens are those between pieces: {'; '.join(dict.fromkeys(found))}. "
            "`--bias` helps."]

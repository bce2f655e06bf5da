"""From runs to medians and ratios, and to Markdown and a drawing of them."""

from statistics import median
from xml.sax.saxutils import escape

# The name of the runs that load a model and give one token.
FIRST_TOKEN = "first token"
# Above these the figures are doubtful: the share of the cores that other processes took, and how
# far the readings of memory around the runs of one row lie apart.
OTHERS_SHARE_MAX = 0.05
BANDWIDTH_RATIO_MAX = 1.15


def summaries(facts: dict, runs: list) -> list:
    """One for each model and row that both programs measured.

    `ratio` is the median over rounds of zonda's median divided by that of llama.cpp in the mode
    that is best over all rounds; above 1, zonda is faster.
    """
    found = []
    for model in facts["models"]:
        for row in facts["rows"]:
            here = [run for run in runs if run["model"] == model and run["row"] == row]
            zonda = [run for run in here if run["program"] == "zonda"]
            modes = {}
            for run in here:
                if run["program"] != "zonda":
                    modes.setdefault(run["mode"], []).append(run)
            summary = {"model": model, "row": row, "zonda": rates(zonda),
                       "llama": {mode: rates(group) for mode, group in modes.items()}}
            if zonda and modes:
                best = max(modes, key=lambda mode: summary["llama"][mode]["median"])
                peer = {run["round"]: run for run in modes[best]}
                ratios = [median(run["samples"]) / median(peer[run["round"]]["samples"])
                          for run in zonda if run["round"] in peer]
                summary.update(best_mode=best, ratios=ratios, ratio=median(ratios))
                summary["zonda"]["share"] = share(row, zonda, zonda)
                summary["llama"][best]["share"] = share(row, modes[best], zonda)
            found.append(summary)
    return found


def rates(runs: list) -> dict | None:
    samples = [rate for run in runs for rate in run["samples"]]
    if not samples:
        return None
    readings = [run[key] for run in runs for key in ("bandwidth_before", "bandwidth_after")]
    return {"median": median(samples), "min": min(samples), "max": max(samples),
            "count": len(samples), "bandwidth": median(readings),
            "bandwidth_min": min(readings), "bandwidth_max": max(readings)}


def share(row: str, runs: list, zonda: list) -> float | None:
    """The share of its limit that a row takes: of memory where it writes, of int8 where it reads.

    What a token costs, and the int8 limit, are as zonda reports them for the same file.
    """
    report = zonda[0]["report"]
    shares = []
    for run in runs:
        rate = median(run["samples"])
        if row.startswith("tg"):
            steps = rate / report["rows"][0]["sequences"]
            limit = (run["bandwidth_before"] + run["bandwidth_after"]) / 2
            shares.append(steps * report["weight_bytes_per_token"] / limit)
            continue
        peaks = [peak for own in zonda
                 for peak in own["report"]["rows"][0].get("int8_peak_readings_ops_per_s", [])]
        if not peaks:
            return None
        shares.append(rate * 2 * report["parameters_per_token"] / median(peaks))
    return median(shares)


def markdown(facts: dict, runs: list, summaries: list, failures: dict) -> str:
    box, lines = facts["machine"], []
    lines.append(f"{box['cpu']}, {box['cores']} cores, {box['system']}; load average "
                 f"{box['load_average']} at the start; threads: {facts['threads']}, rounds: "
                 f"{facts['rounds']}, repetitions in each: {facts['repetitions']}")
    lines += ["", f"* zonda: {facts['versions']['zonda']}",
              f"* llama.cpp: {facts['versions']['llama.cpp']}"]
    for model, size in facts["models"].items():
        lines += ["", f"## {model} ({size / 1e9:.2f} GB)", ""]
        lines += speeds([summary for summary in summaries if summary["model"] == model])
        lines += ["", *first_tokens([run for run in runs if run["model"] == model])]
    doubts = doubtful(runs)
    if doubts:
        lines += ["", *doubts]
    for (model, row, program, mode), why in failures.items():
        lines += ["", f"**failed**: {program} {mode} {model} {row}", "```", why, "```"]
    return "\n".join(lines)


def speeds(summaries: list) -> list:
    lines = ["| row | zonda t/s | llama.cpp repack t/s | llama.cpp plain t/s | ratio | by round "
             "| memory GB/s, zonda | memory GB/s, llama.cpp | share of limit |",
             "|---|---|---|---|---|---|---|---|---|"]
    for summary in summaries:
        best = summary.get("best_mode")
        peers = [rate_cell(summary["llama"].get(mode), mode == best)
                 for mode in ("repack", "plain")]
        ratio, by_round = "–", "–"
        if "ratio" in summary:
            ratio = f"**{summary['ratio']:.2f}**"
            by_round = f"{min(summary['ratios']):.2f}–{max(summary['ratios']):.2f}"
        peer = summary["llama"].get(best)
        lines.append(f"| {summary['row']} | {rate_cell(summary['zonda'], False)} | {peers[0]} "
                     f"| {peers[1]} | {ratio} | {by_round} | {bandwidth_cell(summary['zonda'])} "
                     f"| {bandwidth_cell(peer)} | {share_cell(summary['zonda'], peer)} |")
    return lines


def rate_cell(rates: dict | None, best: bool) -> str:
    if not rates:
        return "failed"
    mark = "**" if best else ""
    return f"{mark}{rates['median']:.2f}{mark} ({rates['min']:.2f}–{rates['max']:.2f})"


def bandwidth_cell(rates: dict | None) -> str:
    if not rates:
        return "–"
    return (f"{rates['bandwidth'] / 1e9:.1f} "
            f"({rates['bandwidth_min'] / 1e9:.1f}–{rates['bandwidth_max'] / 1e9:.1f})")


def share_cell(zonda: dict | None, peer: dict | None) -> str:
    shares = [rates.get("share") if rates else None for rates in (zonda, peer)]
    return " / ".join("–" if value is None else f"{value:.2f}" for value in shares)


def first_tokens(runs: list) -> list:
    lines = ["| program | start to first token, s | peak memory then, MB | peak memory of any row, MB |",
             "|---|---|---|---|"]
    for program in ("zonda", "llama.cpp repack", "llama.cpp plain"):
        group = [run for run in runs if f"{run['program']} {run['mode']}".strip() == program]
        first = [run for run in group if run["row"] == FIRST_TOKEN]
        others = [run for run in group if run["row"] != FIRST_TOKEN]
        seconds = f"{median(run['wall_s'] for run in first):.2f}" if first else "failed"
        lines.append(f"| {program} | {seconds} | {peak_cell(first)} | {peak_cell(others)} |")
    return lines


def peak_cell(runs: list) -> str:
    return f"{max(run['peak_bytes'] for run in runs) / 1e6:.0f}" if runs else "–"


def doubtful(runs: list) -> list:
    """Sentences about what may have disturbed the figures."""
    lines = []
    busy = [run for run in runs if (run["others_share"] or 0) > OTHERS_SHARE_MAX]
    if busy:
        most = max(run["others_share"] for run in busy)
        lines.append(f"**Not quiet**: in {len(busy)} of {len(runs)} runs other processes took more "
                     f"than {OTHERS_SHARE_MAX:.0%} of the cores, up to {most:.0%}.")
    moved = []
    for model, row in sorted({(run["model"], run["row"]) for run in runs}):
        readings = [run[key] for run in runs if (run["model"], run["row"]) == (model, row)
                    for key in ("bandwidth_before", "bandwidth_after")]
        if max(readings) > BANDWIDTH_RATIO_MAX * min(readings):
            moved.append(f"{model} {row} {min(readings) / 1e9:.0f}–{max(readings) / 1e9:.0f}")
    if moved:
        lines.append(f"**Memory moved** by more than {BANDWIDTH_RATIO_MAX - 1:.0%} while a row was "
                     f"measured, in GB/s: {'; '.join(moved)}. Trust decode rows of these only where "
                     "the rounds agree.")
    return lines


# The drawing, in pixels.
WIDTH, LABEL, RIGHT, BAR, GAP, HEAD, TITLE, FOOT = 760, 130, 70, 16, 8, 58, 30, 46
COLOURS = {"pp": "#3f72af", "tg": "#d9822b", "several": "#5b8c5a"}
LEGEND = {"pp": "prefill", "tg": "decode", "several": "decode, several sequences"}


def svg(facts: dict, summaries: list) -> str:
    """Bars of the ratios with a line at 1, and the rounds' least and most."""
    drawn = [summary for summary in summaries if "ratio" in summary]
    most = max([1.0, *(max(summary["ratios"]) for summary in drawn)])
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 50, 250, 10**9) if most / step <= 8)
    end = (int(most / step) + 1) * step
    models = [model for model in facts["models"] if any(s["model"] == model for s in drawn)]
    height = HEAD + len(models) * TITLE + len(drawn) * (BAR + GAP) + FOOT

    def at(ratio: float) -> float:
        return LABEL + ratio / end * (WIDTH - LABEL - RIGHT)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
             f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" '
             'fill="#222222">',
             f'<rect width="{WIDTH}" height="{height}" fill="#fcfcfa"/>',
             text(12, 22, "Speed of zonda divided by that of llama.cpp in its better mode",
                  'font-size="15" font-weight="bold"')]
    x = 12
    for key, label in LEGEND.items():
        parts.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{COLOURS[key]}"/>')
        parts.append(text(x + 17, 44, label))
        x += 34 + 7 * len(label)
    bottom = height - FOOT
    for tick in range(int(end / step) + 1):
        ratio = tick * step
        parts.append(line(at(ratio), HEAD, at(ratio), bottom, "#dddddd", 1))
        parts.append(text(at(ratio), bottom + 16, f"{ratio:g}", 'text-anchor="middle"'))
    y = HEAD
    for model in models:
        parts.append(text(12, y + 20, model, 'font-weight="bold"'))
        y += TITLE
        for summary in (summary for summary in drawn if summary["model"] == model):
            parts += bar(summary, at, y)
            y += BAR + GAP
    parts.append(line(at(1), HEAD, at(1), bottom, "#222222", 1.5))
    parts.append(text(WIDTH - 12, height - 10,
                      f"{facts['machine']['cpu']}; threads: {facts['threads']}; rounds: "
                      f"{facts['rounds']}; whiskers: least and most of the rounds",
                      'text-anchor="end" fill="#666666" font-size="11"'))
    return "\n".join([*parts, "</svg>", ""])


def bar(summary: dict, at, y: int) -> list:
    kind = "several" if " x" in summary["row"] else summary["row"][:2]
    least, most, middle = min(summary["ratios"]), max(summary["ratios"]), y + BAR / 2
    return [text(LABEL - 8, y + 12, summary["row"], 'text-anchor="end"'),
            f'<rect x="{at(0):.1f}" y="{y}" width="{at(summary["ratio"]) - at(0):.1f}" '
            f'height="{BAR}" fill="{COLOURS[kind]}"/>',
            line(at(least), middle, at(most), middle, "#222222", 1),
            *(line(at(end), middle - 4, at(end), middle + 4, "#222222", 1)
              for end in (least, most)),
            text(at(most) + 6, y + 12, f"{summary['ratio']:.2f}")]


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"/>')


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'

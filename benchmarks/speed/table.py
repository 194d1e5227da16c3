"""Print the tables of the speed benchmark from the file that `measure.py` wrote.

    python benchmarks/speed/table.py [--results FILE] [--fill docs/performance.md]

With --fill they take the place of what stands between ``<!-- table NAME -->`` and ``<!-- end -->``
in a page. Where something was repeated, the median stands before the range. Ratios and shares are
taken repeat by repeat, and of CPU seconds: on an idle machine they say what seconds do, and on a
busy one they stay true. On a GPU they are of seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RESULTS = Path(__file__).parents[1] / "results" / "speed" / "speed.json"

START_SECONDS, PEAKS_RATIO, LINEAR = 0.5, 100.0, 1.1
"""The goals: seconds to the help, ratio to the naive loop, greatest exponent of the growth."""
PICKED_SECONDS, PICKED_VOXELS, BESIDE_BYTES = 300.0, 480e6, 2e9
"""And for picking: seconds for a tomogram of so many voxels or more; and of any size the bytes
beside the file and one volume of scores."""
TRAINING_RATIO = 50
"""And for training: CPU time of all steps of `paper` to that of `default`, to its end."""

_LIMITS = {
    "matrix product": ("matrix product (float32)", 1e9, "GFLOP/s"),
    "copy": ("copy in memory, read and write", 1e9, "GB/s"),
    "transform": ("real Fourier transform of 128³", 1e6, "Mvoxel/s"),
    "read": ("file, from the system's cache", 1e9, "GB/s"),
}
_WHOLE = "file to picks"


def main() -> None:
    """Print every table, or fill a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fill", type=Path, help="a page with places for the tables")
    options = parser.parse_args()
    made = tables(json.loads(options.results.read_text(encoding="utf-8")))
    if options.fill is None:
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in made.items()))
        return
    page = options.fill.read_text(encoding="utf-8")
    options.fill.write_text(fill(page, made), encoding="utf-8")


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Markdown of every table that the results have something for, by its name."""
    makers: dict[str, Callable[[Any], str]] = {
        "startup": _startup,
        "stages": _stages,
        "paper": _paper,
        "monai": _monai,
        "peaks": _peaks,
        "voxels": _voxels,
        "picks": lambda rows: _counts(rows, "picks", "µs for each pick"),
        "clicks": lambda rows: _counts(rows, "clicks", "µs for each click"),
        "training": lambda results: "\n\n".join(map(_training, results)),
        "cuda": _cuda,
    }
    made = {"run": _run(results), "goals": _goals(results)}
    return made | {name: maker(results[name]) for name, maker in makers.items() if name in results}


def fill(page: str, made: Mapping[str, str]) -> str:
    """Put the tables in their places in a page; a place without a table says so.

    >>> fill("<!-- table a -->\\nold\\n<!-- end -->", {"a": "new"})
    '<!-- table a -->\\nnew\\n<!-- end -->'
    """
    return re.sub(
        r"(<!-- table (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{made.get(found[2], 'Not measured.')}\n{found[3]}",
        page,
        flags=re.S,
    )


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent p of the power law seconds = c size^p that fits best, in logarithms.

    >>> round(exponent([1, 2, 4], [3, 6, 12]), 6)
    1.0
    """
    x, y = [math.log(size) for size in sizes], [math.log(one) for one in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def _run(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    length = "A short run, on smaller volumes" if results["quick"] else "The full run"
    return (
        f"{length}: `{results['command']}`, {results['date']}, commit {results['commit']}, "
        f"in {sum(results['seconds'].values()) / 60:.0f} minutes. "
        f"{machine['cpu']} ({machine['system']}), {machine['cores']} cores"
        f"{', ' + machine['cuda'] if machine['cuda'] else ', no GPU'}; Python {machine['python']}, "
        f"PyTorch {machine['torch']}, numpy {machine['numpy']}, scipy {machine['scipy']}."
    )


def _goals(results: Mapping[str, Any]) -> str:
    rows = []

    def add(goal: str, measured: str, *, met: bool) -> None:
        rows.append([goal, measured, "yes" if met else "**no**"])

    if "startup" in results:
        seconds = results["startup"]["tomopicker --help"]["seconds"]
        add(
            f"`tomopicker --help` in {START_SECONDS:g} s",
            f"{_spread(seconds)} s",
            met=median(seconds) <= START_SECONDS,
        )
    for row in results.get("peaks", []):
        ratios = _ratios(row)
        add(
            f"peaks of {_by(row['shape'])}, {row['count']:,} picks: "
            f"{PEAKS_RATIO:g} times the naive loop",
            f"{_spread(ratios)} times",
            met=median(ratios) >= PEAKS_RATIO,
        )
    for row in results.get("voxels", []):
        if row["voxels"] >= PICKED_VOXELS:
            add(
                f"{_by(row['shape'])} voxels from file to picks in {PICKED_SECONDS / 60:g} minutes",
                f"{_spread(row['seconds'])} s",
                met=median(row["seconds"]) <= PICKED_SECONDS,
            )
    for result in results.get("training", []):
        if "to_the_end" not in result["default"]:
            continue
        whole = result["default"]["to_the_end"]
        ratio = _all_steps(result["paper"], "cpu_seconds") / whole["cpu_seconds"][0]
        add(
            f"`default` trained to its end on {_by(result['shape'])} voxels in a "
            f"{TRAINING_RATIO:g}th of the CPU time of the steps of `paper`",
            f"1 / {ratio:.0f}",
            met=ratio >= TRAINING_RATIO,
        )
    beside = [one for row in results.get("voxels", []) for one in _beside(row)]
    if beside:
        add(
            f"memory beside the file and a volume of scores up to {BESIDE_BYTES / 1e9:g} GB",
            f"{max(beside) / 1e6:,.0f} MB",
            met=max(beside) <= BESIDE_BYTES,
        )
    for name, title in (("voxels", "volume"), ("picks", "picks"), ("clicks", "clicks")):
        if name in results:
            power = _exponent_of(name, results[name])
            if power is None:
                continue
            add(
                f"cost at most linear in the {title} (exponent up to {LINEAR:g})",
                f"{power:.2f}",
                met=power <= LINEAR,
            )
    return _table(["goal", "measured", "met"], rows)


def _startup(rows: Mapping[str, Any]) -> str:
    return _table(
        ["command", "seconds", "CPU s"],
        [
            [f"`{name}`", _spread(row["seconds"]), _spread(row["cpu_seconds"])]
            for name, row in rows.items()
        ],
    )


def _stages(runs: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(_of_one_run(run) for run in runs)


def _of_one_run(run: Mapping[str, Any]) -> str:
    threads = "one thread" if run["threads"] == 1 else f"{run['threads']} threads"
    limits = [
        [title, f"{_spread([limit['work'] / s / unit for s in limit['seconds']])} {name_of}"]
        for name, (title, unit, name_of) in _LIMITS.items()
        if (limit := run["limits"].get(name))
    ]
    rows = []
    cost = "cpu_seconds" if run["device"] == "cpu" else "seconds"
    least = [0.0] * len(next(iter(run["stages"].values()))[cost])
    for name, stage in run["stages"].items():
        bound = _bound(stage, run["limits"], cost)
        if bound is not None:
            least = [a + b for a, b in zip(least, bound, strict=True)]
        elif name == _WHOLE:
            bound = least
        share = "–" if bound is None else _percent(bound, stage[cost])
        against = "all of the above" if name == _WHOLE else stage.get("limit", "–")
        rows.append(
            [name, _spread(stage["seconds"]), _spread(stage["cpu_seconds"]), against, share]
        )
    voxels = run["scored_voxels"]
    again = run["operations"] / (run["operations_per_voxel"] * voxels)
    network = (
        f"{run['operations_per_voxel'] / 1e3:,.1f} kFLOP for each scored voxel; with padding and "
        f"halos {again:.2f} times that were done"
    )
    return (
        f"{_by(run['shape'])} voxels, scored at {voxels / 1e6:.2f} million, {threads}. {network}.\n"
        f"\n{_table(['limit', 'measured'], limits)}\n\n"
        f"{_table(['stage', 'seconds', 'CPU s', 'limit', 'limit attained'], rows)}"
    )


def _bound(stage: Mapping[str, Any], limits: Mapping[str, Any], cost: str) -> list[float] | None:
    """Least seconds that the machine needs for a stage's work, in every repeat."""
    if stage.get("limit") not in limits:
        return None
    limit = limits[stage["limit"]]
    return [stage["work"] / limit["work"] * seconds for seconds in limit[cost]]


def _paper(rows: Mapping[str, Any]) -> str:
    return _table(
        ["step", "voxels", "ours (CPU s)", "as written (CPU s)", "measured of it", "times faster"],
        [
            [
                name,
                _by(row["shape"]),
                _spread(row["ours"]["cpu_seconds"]),
                _spread([row["factor"] * one for one in row["naive"]["cpu_seconds"]]),
                "all" if row["factor"] == 1 else f"1 / {row['factor']:g}",
                _spread(_ratios(row)),
            ]
            for name, row in rows.items()
        ],
    )


def _peaks(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ["voxels", "picks", "ours (CPU s)", "naive loop (CPU s)", "measured of it", "times faster"],
        [
            [
                _by(row["shape"]),
                f"{row['count']:,}",
                _spread(row["ours"]["cpu_seconds"]),
                _spread([row["factor"] * one for one in row["naive"]["cpu_seconds"]]),
                f"1 / {row['factor']:g}",
                _spread(_ratios(row)),
            ]
            for row in rows
        ],
    )


def _monai(result: Mapping[str, Any]) -> str:
    if "left_out" in result:
        return f"Left out: {result['left_out']}."
    ours = result["ways"]["ours"]
    rows = [
        [
            name,
            _spread(way["seconds"]),
            _spread(way["cpu_seconds"]),
            _spread([b / a for a, b in zip(ours["cpu_seconds"], way["cpu_seconds"], strict=True)]),
            f"{way['difference']:.2g}",
        ]
        for name, way in result["ways"].items()
    ]
    return (
        f"MONAI {result['version']}, {_by(result['shape'])} voxels, tiles of {result['tile']}; the "
        f"scores' standard deviation is {result['spread_of_scores']:.2g}.\n\n"
        + _table(
            ["way", "seconds", "CPU s", "times ours", "largest difference from one piece"], rows
        )
    )


def _voxels(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [
            _by(row["shape"]),
            f"{row['voxels'] / 1e6:.3g}",
            f"{row['scored_voxels'] / 1e6:.3g}" if "scored_voxels" in row else "–",
            f"{row['picks']:,}",
            _spread(row["seconds"]),
            _spread(row["cpu_seconds"]),
            f"{row['file_bytes'] / 1e6:,.0f}",
            _megabytes(row["peak_bytes"]),
            _megabytes(row["peak_anonymous_bytes"]),
            _megabytes(_beside(row)),
        ]
        for row in rows
    ]
    header = ["voxels", "million", "scored at", "picks", "seconds", "CPU s", "file (MB)"]
    power = _exponent_of("voxels", rows)
    growth = "The tomograms are too small to tell how the CPU time grows."
    if power is not None:
        growth = f"Exponent of the CPU time, less that of the first row: {power:.2f}."
    memory = ["peak memory (MB)", "of it not the file's (MB)", "nor the scores' (MB)"]
    table = _table([*header, *memory], cells)
    return f"{table}\n\n{growth}"


def _beside(row: Mapping[str, Any]) -> list[float]:
    """Bytes of every repeat that are neither the file's nor the scores'; none where not known."""
    scores = 4 * row.get("scored_voxels", math.nan)
    left = [one - scores for one in row["peak_anonymous_bytes"] if one is not None]
    return [one for one in left if not math.isnan(one)]


def _counts(rows: Sequence[Mapping[str, Any]], name: str, each: str) -> str:
    cells = [
        [
            f"{row['count']:,}",
            _spread(row["seconds"]),
            _spread(row["cpu_seconds"]),
            f"{1e6 * median(row['cpu_seconds']) / row['count']:,.0f}",
        ]
        for row in rows
    ]
    power = _exponent_of(name, rows)
    return (
        f"{_by(rows[0]['shape'])} voxels.\n\n"
        + _table([name, "seconds", "CPU s", each], cells)
        + f"\n\nExponent of the CPU time: {power:.2f}."
    )


def _exponent_of(name: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Exponent of the growth; None where the tomograms are too small to tell."""
    seconds = [median(row["cpu_seconds"]) for row in rows]
    if name != "voxels":
        return exponent([row["count"] for row in rows], seconds)
    # The first tomogram is so small that its time is that of the start, which is taken off the
    # others'; where that is most of it, what is left is the start's own variation.
    # One that was not rescaled has more to score than others of its size.
    start, share = seconds[0], _scored_share(rows[0])
    told = [
        (row["voxels"], s - start)
        for row, s in zip(rows, seconds, strict=True)
        if s > 2 * start and _scored_share(row) <= 1.5 * share
    ]
    return exponent(*zip(*told, strict=True)) if len(told) > 1 else None


def _scored_share(row: Mapping[str, Any]) -> float:
    return row.get("scored_voxels", row["voxels"]) / row["voxels"]


def _training(result: Mapping[str, Any]) -> str:
    rows = []
    for name in ("default", "paper"):
        part = result[name]
        rows.append(
            [
                f"`{name}`",
                _spread(part["seconds"]),
                _spread(part["cpu_seconds"]),
                f"{len(part['seconds'])} of {part['planned_steps']}",
                f"{_all_steps(part, 'seconds'):,.0f}",
                f"{_all_steps(part, 'cpu_seconds'):,.0f}",
            ]
        )
    header = ["preset", "seconds a step", "CPU s a step", "steps measured"]
    text = (
        f"{_by(result['shape'])} voxels, {result['clicks']} clicks, on {result['device']}.\n\n"
        + _table([*header, "s for all steps", "CPU s for all steps"], rows)
    )
    whole = result["default"].get("to_the_end")
    if whole:
        text += (
            f"\n\n`default` to its end, with what comes before and after the steps: "
            f"{whole['seconds'][0]:,.0f} s, {whole['cpu_seconds'][0]:,.0f} CPU s."
        )
    return text


def _all_steps(part: Mapping[str, Any], cost: str) -> float:
    return float(part["planned_steps"] * median(part[cost]))


def _cuda(result: Mapping[str, Any]) -> str:
    if "left_out" in result:
        return f"Left out: {result['left_out']}."
    return f"{result['device']}.\n\n{_of_one_run(result['stages'])}\n\n" + _training(
        result["training"]
    )


def _ratios(row: Mapping[str, Any]) -> list[float]:
    pairs = zip(row["ours"]["cpu_seconds"], row["naive"]["cpu_seconds"], strict=True)
    return [row["factor"] * theirs / ours for ours, theirs in pairs]


def _spread(values: Sequence[float]) -> str:
    """Median and range, three digits each: ``1.2 (1.1–1.5)``."""
    if len(values) == 1:
        return _number(values[0])
    return f"{_number(median(values))} ({_number(min(values))}–{_number(max(values))})"


def _percent(part: Sequence[float], whole: Sequence[float]) -> str:
    shares = [100 * a / b for a, b in zip(part, whole, strict=True)]
    digits = 0 if median(shares) >= 10 else 1
    low, middle, high = (f"{one:.{digits}f}" for one in (min(shares), median(shares), max(shares)))
    return f"{middle} %" if len(shares) == 1 else f"{middle} % ({low}–{high})"


def _number(value: float) -> str:
    """Three significant digits, and no exponent.

    >>> _number(0.012345), _number(12345.6)
    ('0.0123', '12,346')
    """
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{max(2 - math.floor(math.log10(value)), 0)}f}"


def _megabytes(values: Sequence[float | None]) -> str:
    known = [value / 1e6 for value in values if value is not None]
    return _spread(known) if known else "–"


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()

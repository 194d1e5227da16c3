"""Print the tables of the accuracy benchmark from the rows that `methods.py` left.

    python benchmarks/accuracy/table.py [--results FOLDER]

F1 and recall are means over the four test tomograms, so that a crowded one counts no more than a
sparse one; what stands after ± is the standard deviation over the seeds of that mean. The second
table of a set says how true it is what picking tells: the number of particles over the true one
(geometric mean), and the false ones among picks at a stated rate, with the number of picks over
that of targets.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from methods import WITHOUT

TITLES = {
    "template": "template matching, true map",
    "filter": "radial filter",
    "paper-pn": "paper PN, 100 clicks",
    "paper-pu": "paper PU, 100 clicks",
    "paper-kl": "paper KL, 100 clicks",
    "supervised": "supervised, soft blobs",
    "default": "**`default`**",
    "ceiling": "`default`, every target labelled",
}
COLUMNS = (
    ("F1 at the true count", lambda part: part["true_count"]["f1"]),
    ("F1 at its own cut-off", lambda part: part.get("own_cut", {}).get("f1")),
    ("average precision", lambda part: part["average_precision"]),
    ("recall at 90 % precision", lambda part: part["recall_at_90"]),
    ("F1 as the paper counts", lambda part: part["true_count"]["paper_f1"]),
    ("centre error (Å)", lambda part: part["true_count"]["error_angstrom"]),
)


def main() -> None:
    """Print one table for each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/accuracy"))
    options = parser.parse_args()
    for folder in sorted(path for path in options.results.iterdir() if path.is_dir()):
        rows = [json.loads(file.read_text()) for file in folder.glob("*.json")]
        print(f"## {folder.name}\n")
        names = [name for name, _ in COLUMNS]
        print(f"| method | seeds | {' | '.join(names)} | training CPU s | picking CPU s |")
        print("|---" * (len(names) + 4) + "|")
        for method in sorted({row["method"] for row in rows}, key=_order):
            some = [row for row in rows if row["method"] == method]
            _print(_title(method), some, lambda part: part)
            if "whole" in next(iter(some[0]["parts"].values())):
                _print(f"{_title(method)}, whole volume", some, lambda part: part["whole"])
        print()
        told = [row for row in rows if "at_rates" in next(iter(row["parts"].values()))]
        if told:
            _print_rates(told)


def _print_rates(rows: list[dict]) -> None:
    """Print how true the numbers and rates are that picking tells."""
    rates = list(next(iter(rows[0]["parts"].values()))["at_rates"])
    names = [f"false of picks at a stated {float(rate):.0%} (length)" for rate in rates]
    print(f"| method | seeds | number told | within its interval | {' | '.join(names)} |")
    print("|---" * (len(names) + 4) + "|")
    for method in sorted({row["method"] for row in rows}, key=_order):
        some = [row for row in rows if row["method"] == method]
        parts = [part for row in some for part in row["parts"].values()]
        ratios = [
            [part["estimate"][0] / part["targets"] for part in row["parts"].values()]
            for row in some
        ]
        inside = [part["estimate"][1] <= part["targets"] <= part["estimate"][2] for part in parts]
        cells = [_spread([np.exp(np.mean(np.log(one))) for one in ratios], 2)]
        cells.append(f"{sum(inside)} of {len(inside)}")
        for rate in rates:
            lists = [[part["at_rates"][rate] for part in row["parts"].values()] for row in some]
            # Of all picks of the four: a list may be empty.
            false = [
                1
                - np.dot([one["picks"] for one in four], [one["precision"] for one in four])
                / max(sum(one["picks"] for one in four), 1)
                for four in lists
            ]
            length = np.mean([part["at_rates"][rate]["picks"] / part["targets"] for part in parts])
            cells.append(f"{_spread(false, 2)} ({length:.2f})")
        print(f"| {_title(method)} | {len(some)} | {' | '.join(cells)} |")
    print()


def _print(title: str, rows: list[dict], of) -> None:
    cells = []
    for _, value in COLUMNS:
        means = []
        for row in rows:
            found = [value(of(part)) for part in row["parts"].values()]
            known = [one for one in found if one is not None]
            if known:
                means.append(np.mean(known))
        digits = 1 if value is COLUMNS[-1][1] else 2
        cells.append(_spread(means, digits))
    seconds = ("training_cpu_seconds", "picking_cpu_seconds")
    cells += [_spread([row[key] for row in rows], 0) for key in seconds]
    print(f"| {title} | {len(rows)} | {' | '.join(cells)} |")


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values):.{digits}f}"


def _title(method: str) -> str:
    name, _, without = method.partition(":")
    if name in TITLES:
        return TITLES[name]
    kind, _, number = name.rpartition("-")
    number, _, off = number.partition("~")
    title = f"{TITLES.get(kind, kind)}, {number} clicks"
    title += f", each off by {off} voxels" if off else ""
    return f"{title}, {WITHOUT[without][0]}" if without else title


def _order(method: str) -> tuple[int, str, int, float]:
    kinds = list(TITLES)
    name, _, without = method.partition(":")
    kind, _, number = name.rpartition("-")
    number, _, off = number.partition("~")
    place = kinds.index(name) if name in kinds else kinds.index(kind)
    return place, without, int(number) if number.isdecimal() else 0, float(off or 0)


if __name__ == "__main__":
    main()

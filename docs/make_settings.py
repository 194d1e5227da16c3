"""Write docs/settings.md from the models of `tomopicker.config`: ``python docs/make_settings.py``.

What a setting means is the text below its field there, so that it is said in one place only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tomopicker.config import Config, PresetName, preset

FILE = Path(__file__).with_name("settings.md")

_HEAD = """# Settings

<!-- Written by docs/make_settings.py from src/tomopicker/config.py: change the texts there. -->

A run takes its settings from a preset. `paper` follows the paper; `default` is what we find best
from the same clicks. A setting that has an option of its own is best given with it
(see [commands](commands.md)); any setting of the tables below can be given to `tomopicker train`,
and to `tomopicker benchmark`, as `--set NAME=VALUE`:

```
tomopicker train TS_01.mrc --picks clicks.csv --radius 150A --out run \\
  --set training.batch=4 --set sampling.augment=false --set 'network.channels=[32,64,128]'
```

A list is written in brackets and in quotes, a switch as `true` or `false`. An unknown name or a
value out of range is an error. The settings that a run used are in its `config.json`.
"""


def settings_text() -> str:
    """Give the whole text of docs/settings.md."""
    schema = Config.model_json_schema()
    stages = {
        name: schema["$defs"][of["$ref"].removeprefix("#/$defs/")]
        for name, of in schema["properties"].items()
        if "$ref" in of
    }
    own = {name: of for name, of in schema["properties"].items() if name not in stages}
    parts = [_HEAD, "## Of the run", "", *_own(own)]
    for name, stage in stages.items():
        parts += ["", f"## {name}", "", " ".join(stage["description"].split()), ""]
        parts += [
            "| setting | values | `paper` | `default` | meaning |",
            "|---|---|---|---|---|",
            *(_row(name, setting, of) for setting, of in stage["properties"].items()),
        ]
    return "\n".join(parts) + "\n"


_OPTIONS = {
    "preset": "`--preset`",
    "radius_angstrom": "`--radius` or `--diameter`",
    "expected": "`--expected`",
}
"""Of the settings that are no stage's; a new one without an option here is a KeyError."""


def _own(settings: dict[str, Any]) -> list[str]:
    rows = (
        f"| `{name}` | {_OPTIONS[name]} | {_values(of)} | {_meaning(of)} |"
        for name, of in settings.items()
    )
    return ["| setting | option | values | meaning |", "|---|---|---|---|", *rows]


def _row(stage: str, name: str, of: dict[str, Any]) -> str:
    cells = [f"`{stage}.{name}`", _values(of), _default("paper", stage, name)]
    return "| " + " | ".join([*cells, _default("default", stage, name), _meaning(of)]) + " |"


def _meaning(of: dict[str, Any]) -> str:
    # A bar would end the table's cell.
    return " ".join(of["description"].split()).replace("|", r"\|")


def _default(of: PresetName, stage: str, name: str) -> str:
    """Give a preset's value."""
    settings = preset(of, radius_angstrom=150.0, voxel_size=10.0)
    value = json.dumps(getattr(getattr(settings, stage), name), separators=(",", ":"))
    return f"`{value}`".replace('"', "")


def _values(of: dict[str, Any]) -> str:
    """Describe which values a setting takes, from its JSON schema."""
    if "anyOf" in of:
        return " or ".join(_values(one) for one in of["anyOf"])
    if "enum" in of:
        return ", ".join(f"`{value}`" for value in of["enum"])
    if of["type"] == "array":
        return f"{of['minItems']} to {of['maxItems']} of: {_values(of['items'])}"
    kind = _KINDS[of["type"]]
    low, above = of.get("minimum"), of.get("exclusiveMinimum")
    high, below = of.get("maximum"), of.get("exclusiveMaximum")
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            *(("at least", low), ("above", above)),
            *(("at most", high), ("below", below)),
        )
        if bound is not None
    ]
    return f"{kind} {' and '.join(bounds)}".strip()


_KINDS = {
    "number": "number",
    "integer": "whole number",
    "boolean": "`true`, `false`",
    "null": "none",
}


if __name__ == "__main__":
    FILE.write_text(settings_text(), encoding="utf-8")

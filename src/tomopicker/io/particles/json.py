"""JSON as it comes from others: every value is checked before it is used."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tomopicker.errors import InputError
from tomopicker.io.particles.rows import cut, read_text
from tomopicker.io.whole import whole_file


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises
    ------
    InputError
        When the file is missing, not text or no JSON object.
    """
    return parse_object(path, read_text(path), "the file")


def parse_object(path: Path, text: str, where: str) -> dict[str, Any]:
    """Read one JSON object.

    Raises
    ------
    InputError
        Naming the file and the place in it.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {where} is not JSON ({cut(str(error), 200)})") from error
    return an_object(path, where, value)


def an_object(path: Path, where: str, value: object) -> dict[str, Any]:
    """Refuse what is no JSON object.

    Raises
    ------
    InputError
        Naming the file and the place in it.
    """
    if not isinstance(value, dict):
        raise InputError(f"{path}: {where} is not a JSON object; write it again")
    return value


def a_list(path: Path, where: str, value: object) -> list[Any]:
    """Refuse what is no JSON array.

    Raises
    ------
    InputError
        Naming the file and the place in it.
    """
    if not isinstance(value, list):
        raise InputError(f"{path}: {where} is not a list; write it again")
    return value


def a_number(path: Path, where: str, value: object) -> float:
    """Refuse what is no finite number.

    Raises
    ------
    InputError
        Naming the file and the place in it.
    """
    try:
        number = float(value) if type(value) in (int, float) else math.nan  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(
            f"{path}: {where} is {cut(str(value))}, which is not a number; correct or remove it"
        )
    return number


def write_json(path: Path, value: object, *, overwrite: bool) -> None:
    """Write JSON, whole or not at all.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")

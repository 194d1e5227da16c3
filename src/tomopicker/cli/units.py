"""Lengths and memory as a person types them on the command line: 12vx, 160A, 16nm, 4GB."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tomopicker.errors import InputError

Unit: TypeAlias = Literal["vx", "A", "nm"]


@dataclass(frozen=True, kw_only=True)
class Length:
    """A positive length in voxels, ångström or nanometres."""

    value: float
    unit: Unit

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}"

    def voxels(self, voxel_size: float | None) -> float:
        """The length in voxels of `voxel_size` ångström (None where unknown).

        >>> Length(value=16, unit="nm").voxels(10.0)
        16.0

        Raises
        ------
        InputError
            When the length is not in voxels and the voxel size is unknown.
        """
        if self.unit == "vx":
            return float(self.value)
        return self.angstrom(voxel_size) / self._known(voxel_size)

    def angstrom(self, voxel_size: float | None) -> float:
        """The length in ångström, given voxels of `voxel_size` ångström (None where unknown).

        >>> Length(value=16, unit="nm").angstrom(None)
        160.0

        Raises
        ------
        InputError
            When the length is in voxels and the voxel size is unknown.
        """
        if self.unit == "vx":
            return float(self.value * self._known(voxel_size))
        return float(self.value * _ANGSTROM[self.unit])

    def _known(self, voxel_size: float | None) -> float:
        if voxel_size is None:
            raise InputError(
                f"{self} can be converted only where the voxel size is known; "
                "give it in ångström with --voxel-size"
            )
        return voxel_size


def parse_length(text: str) -> Length:
    """Read a length such as ``12vx``, ``160A``, ``160 Å`` or ``16nm``.

    >>> parse_length("13.5 Å")
    Length(value=13.5, unit='A')

    Raises
    ------
    InputError
        When the unit is missing or unknown, or the number is not positive.
    """
    # NFC joins A and a combining ring, and the ångström sign, into the letter Å.
    match = re.fullmatch(
        r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*([^\d\s]*)\s*", unicodedata.normalize("NFC", text)
    )
    if match is None:
        raise InputError(f"'{text}' is not a length; write a number and its unit, such as 12vx")
    number, symbol = match.groups()
    if not symbol:
        raise InputError(
            f"'{text}' has no unit; write {number}vx for voxels, {number}A for ångström "
            f"or {number}nm for nanometres"
        )
    unit = _UNITS.get(symbol.lower())
    if unit is None:
        raise InputError(f"'{text}' has an unknown unit; known are vx (voxels), A or Å, and nm")
    value = float(number)
    if not 0 < value < math.inf:
        raise InputError(f"'{text}' must be a length above 0")
    return Length(value=value, unit=unit)


def parse_memory(text: str) -> float:
    """Read an amount of memory such as ``4GB``, ``500MB`` or ``1.5 GB``, in GB (1e9 bytes).

    >>> parse_memory("500 MB")
    0.5

    Raises
    ------
    InputError
        When the unit is missing or unknown, or the number is not positive.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([MG])B?\s*", text, re.IGNORECASE)
    if match is None or not 0 < float(match.group(1)) < math.inf:
        raise InputError(f"'{text}' is not an amount of memory; write it as 4GB or 500MB")
    return float(match.group(1)) * (1.0 if match.group(2).upper() == "G" else 1e-3)


_ANGSTROM = {"A": 1.0, "nm": 10.0}

_UNITS: dict[str, Unit] = {"vx": "vx", "nm": "nm", "a": "A", "å": "A"}

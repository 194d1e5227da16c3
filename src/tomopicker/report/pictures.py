"""Pictures of a page: grey images and figures as text that a browser shows without a file."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from PIL import Image

from tomopicker.report.cubes import sections
from tomopicker.report.slices import contrast_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_GAP = 4  # pixels between the sections of a strip
_QUALITIES = (80, 65, 50, 35)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image with the text that stands for it."""

    source: str
    """A ``data:`` address that holds all of it."""
    width: int
    height: int
    alt: str


@dataclass(frozen=True, kw_only=True)
class Greys:
    """Black and white of the sections xy, xz and yz, alike for all the cubes of a tomogram."""

    limits: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, cubes: Sequence[NDArray[np.floating]]) -> Greys:
        """Choose them for some cubes; each plane has its own, as the wedge blurs xz and yz."""
        planes = zip(*(sections(cube) for cube in cubes), strict=True)
        return cls(limits=tuple(contrast_limits(np.stack(plane)) for plane in planes))


def strip(cube: NDArray[np.floating], greys: Greys, *, side: int, alt: str) -> Picture:
    """Draw the sections xy, xz and yz of a cube side by side, each `side` pixels wide."""
    parts = []
    for section, (low, high) in zip(sections(cube), greys.limits, strict=True):
        image = Image.fromarray(_grey(section, low, high))
        resized = image.resize((side, side), Image.Resampling.BICUBIC)
        parts += [np.asarray(resized), np.full((side, _GAP), 255, np.uint8)]
    whole = np.hstack(parts[:-1])
    return Picture(source=_jpeg(whole, 85), width=whole.shape[1], height=side, alt=alt)


def strip_middles(side: int) -> tuple[float, ...]:
    """Pixels from the left to the middle of each section of a `strip`.

    >>> strip_middles(100)
    (50.0, 154.0, 258.0)
    """
    return tuple(number * (side + _GAP) + side / 2 for number in range(3))


def photograph(
    picture: NDArray[np.floating],
    limits: tuple[float, float],
    *,
    longest: int,
    most_bytes: int,
    alt: str,
) -> Picture:
    """Draw a slice at most `longest` pixels wide or high, in at most `most_bytes` of text.

    Its first row is the lowest, as in `slice_figure`.
    """
    image = Image.fromarray(_grey(picture, *limits))
    while True:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            source = _jpeg(np.asarray(image), quality)
            # A picture of 64 pixels is as small as is worth to be shown.
            if len(source) <= most_bytes or longest <= 64:
                return Picture(source=source, width=image.width, height=image.height, alt=alt)
        longest = max(longest * 3 // 4, 64)


def drawing(figure: Figure, alt: str) -> Picture:
    """Turn a figure into an image of lines, sharp at any size."""
    file = io.BytesIO()
    # Letters as outlines: fonts differ between a phone, a printer and here.
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "tomopicker"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    source = f"data:image/svg+xml;base64,{b64encode(file.getvalue()).decode('ascii')}"
    return Picture(source=source, width=width, height=height, alt=alt)


def _grey(picture: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Scale to 0 to 255, upside down as images are; what is not known is white."""
    scaled = 255 * (picture[::-1] - low) / max(high - low, 1e-12)
    grey: NDArray[np.uint8] = np.nan_to_num(np.clip(scaled, 0, 255), nan=255).astype(np.uint8)
    return grey


def _jpeg(grey: NDArray[np.uint8], quality: int) -> str:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode('ascii')}"

"""DeepFinder's object lists: XML with the voxel of each object."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.dynamo import tomogram_names
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.rows import number, one_class, read_text
from tomopicker.types import Floats, Particles


def is_deepfinder(head: Head) -> bool:
    """Recognise by the name of the list."""
    return "<objlist" in head.text or "<object " in head.text


def read_deepfinder(path: Path, frame: Frame) -> Particles:
    """Read objects of one class in voxels, 0-based; tomograms are named by their numbers.

    Raises
    ------
    InputError
        When the file is no such list, declares entities, or holds several classes.
    """
    text = read_text(path)
    # An entity that is declared can stand for gigabytes, or for another file.
    if "<!" in text.replace("<!--", ""):
        raise InputError(f"{path}: declares a document type or entities; remove them")
    try:
        objects = list(ElementTree.fromstring(text).iter("object"))
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not XML that can be read ({error}); write it again"
        ) from error

    def column(name: str, default: str | None = None) -> Floats:
        cells = [thing.get(name, default) or "" for thing in objects]
        return np.array([number(path, n, name, cell) for n, cell in enumerate(cells, start=1)])

    zyx = np.stack([column(axis) for axis in "zyx"], axis=1)
    if objects:
        one_class(path, column("class_label", "0"))
    scores = column("cluster_size", "0")
    return Particles.from_voxels(
        zyx,
        voxel_size=frame.voxel_size,
        scores=scores if scores.any() else None,
        tomograms=tomogram_names(path, column("tomo_idx", "0"), {}),
    )

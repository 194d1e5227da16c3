"""Layers: tomograms and particles as napari shows them, and back.

A tomogram's scale is its voxel size, so that the viewer's world is ångström from the centre of its
first voxel, ``z y x``, and particles of any list lie where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.angles import from_relion, to_relion
from tomopicker.io.particles.frame import UNKNOWN, Frame
from tomopicker.types import Particles

if TYPE_CHECKING:
    from tomopicker.types import Floats, Tomogram

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
"""Data, attributes and kind of a layer, as napari hands them to and fro."""

KEY = "tomopicker"
"""Of a layer's metadata; it holds a `Place`."""

ANGLES = ("rot", "tilt", "psi")
"""Columns of a layer with orientations: RELION's angles, degrees."""

_UNIT = "angstrom"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The tomogram that a layer is, or is of."""

    tomogram: str
    frame: Frame
    path: Path | None = None
    """Its file, where it is known."""


def image_layer(tomogram: Tomogram) -> LayerData:
    """Show a tomogram, which stays on disk, in ångström."""
    middle = np.asarray(tomogram.data[tomogram.shape[0] // 2], dtype=np.float32)
    finite = middle[np.isfinite(middle)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    frame = Frame(
        voxel_size=tomogram.voxel_size, shape=tomogram.shape, extent=tomogram.extent
    )
    attributes = {
        "name": tomogram.name,
        **_where(tomogram.voxel_size),
        "colormap": "gray",
        "contrast_limits": (float(low), float(max(high, np.nextafter(low, np.inf)))),
        "multiscale": False,
        "metadata": {
            KEY: Place(tomogram=tomogram.name, frame=frame, path=tomogram.path),
        },
    }
    return tomogram.data, attributes, "image"


def points_layer(particles: Particles, place: Place, name: str) -> LayerData:
    """Show the particles of one tomogram; what else is known of each becomes a feature."""
    frame = place.frame
    features: dict[str, Any] = {}
    if particles.scores is not None:
        features["score"] = particles.scores
    if particles.probabilities is not None:
        features["probability"] = particles.probabilities
    if particles.orientations is not None:
        features |= dict(zip(ANGLES, to_relion(particles.orientations).T, strict=True))
    features |= {column: list(cells) for column, cells in particles.extra.items()}
    attributes = {
        "name": name,
        **_where(frame.voxel_size),
        "features": features,
        **rings(2 * frame.drawn_radius / frame.voxel_size),
        "metadata": {KEY: place},
    }
    return particles.positions[:, ::-1] / frame.voxel_size, attributes, "points"


def rings(size: float, colour: str = "yellow") -> dict[str, Any]:
    """Attributes of points that are drawn as spheres are cut by the slice; size in voxels."""
    return {
        "size": size,
        "face_color": "transparent",
        "border_color": colour,
        "border_width": 0.06,
        "projection_mode": "rescale_spherical",
    }


def particles_of(
    data: Floats, attributes: Mapping[str, Any], open_layers: Sequence[Any] = ()
) -> tuple[Particles, Place]:
    """Take particles from a points layer.

    Parameters
    ----------
    data
        (n, 3) ``z y x`` points, in the layer's own coordinates.
    attributes
        Of the layer, as napari hands them to a writer.
    open_layers
        Layers of the viewer: the one tomogram among them is theirs, where nothing else tells.

    Returns
    -------
    tuple
        The particles, in the frame of the place, which is the tomogram that they are of.

    Raises
    ------
    InputError
        When the points are not of a volume, are turned, or could be of several tomograms.
    """
    name = attributes.get("name", "points")
    data = np.asarray(data, dtype=np.float64)
    if data.ndim != 2 or data.shape[1] != 3:
        raise InputError(f"layer {name}: its points are not of a volume; give them z, y and x")
    scale = np.asarray(attributes.get("scale", (1.0,) * 3), dtype=np.float64)
    shift = np.asarray(attributes.get("translate", (0.0,) * 3), dtype=np.float64)
    for turn, straight in (("rotate", np.eye(3)), ("affine", np.eye(4)), ("shear", np.zeros(3))):
        if turn in attributes and not np.allclose(attributes[turn], straight):
            raise InputError(f"layer {name}: is turned or sheared in the viewer; undo that")
    place = (attributes.get("metadata") or {}).get(KEY) or _only_place(open_layers, name)
    if place is None:
        # Who sets a layer's scale without a tomogram of ours can only mean the voxel size.
        if np.ptp(scale) > 1e-6 * scale.max():
            raise InputError(f"layer {name}: its scale differs between axes; open its tomogram")
        frame = Frame(voxel_size=float(scale[0]))
        place = Place(tomogram=str(name), frame=frame)
        shift = np.zeros(3)
    elif place.frame.voxel_size == UNKNOWN:
        shift, scale = np.zeros(3), np.ones(3)
    return _particles(data * scale + shift, place, attributes.get("features")), place


def places(layers: Sequence[Any]) -> list[Place]:
    """Tomograms among the layers of a viewer, in their order."""
    found = [layer.metadata.get(KEY) for layer in layers if layer._type_string == "image"]
    return [place for place in found if place is not None]


def _only_place(layers: Sequence[Any], name: object) -> Place | None:
    found = places(layers)
    if len(found) > 1:
        raise InputError(
            f"layer {name}: several tomograms are open, and nothing tells of which one it is; "
            "choose both in the TomoPicker widget, or leave only its tomogram open"
        )
    return found[0] if found else None


def _where(voxel_size: float) -> dict[str, Any]:
    if voxel_size == UNKNOWN:
        return {}
    return {"scale": (voxel_size,) * 3, "units": (_UNIT,) * 3}


def _particles(world: Floats, place: Place, features: Any) -> Particles:
    """Make a table of (n, 3) ``z y x`` ångström and a layer's table of features."""
    columns: dict[str, Any] = {}
    if features is not None:
        columns = {str(name): np.asarray(features[name]) for name in features}
    numbers = {
        name: _numbers(columns.pop(name))
        for name in ("score", "probability", *ANGLES)
        if name in columns
    }
    scores, chances = (numbers.get(name) for name in ("score", "probability"))
    angles = [numbers.get(name) for name in ANGLES]
    turns = None
    if all(column is not None for column in angles):
        turns = from_relion(np.stack([column for column in angles if column is not None], axis=1))
    return Particles(
        positions=world[:, ::-1],
        voxel_size=place.frame.voxel_size,
        scores=scores,
        probabilities=chances,
        tomograms=(place.tomogram,) * len(world),
        orientations=turns,
        extra={name: tuple(str(cell) for cell in cells) for name, cells in columns.items()},
    )


def _numbers(column: Any) -> Floats | None:
    """(n,) numbers; None where a point that was added by hand has none."""
    values = np.asarray(column, dtype=np.float64)
    return values if np.isfinite(values).all() else None

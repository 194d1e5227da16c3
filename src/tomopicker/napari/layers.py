"""Layers: tomograms and picks as napari shows them, in ångström, and picks written back.

A layer's data are voxels ``z y x`` and its `scale` is the voxel size, so that whatever is of one
tomogram lies together, and the ruler is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles import (
    FORMATS,
    formats_of_name,
    read_particles,
    recognise,
    write_particles,
)
from tomopicker.io.places import is_picks
from tomopicker.io.tomograms import SUFFIXES, read_tomogram
from tomopicker.types import Particles, Tomogram

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
"""Data, options of the layer, and its kind, as napari takes them."""

METADATA = "tomopicker"
"""Key under which a layer's `metadata` hold what it is of."""


def reader_of(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """Tell napari who reads a file, by its content; None where we do not."""
    first = Path(path if isinstance(path, str) else path[0])
    try:
        if is_picks(first):
            return _read_lists
    except InputError:
        return None
    return _read_tomograms if first.suffix.lower() in SUFFIXES else None


def image_layer(tomogram: Tomogram) -> LayerData:
    """Show a tomogram; its voxels stay on the disk."""
    middle = np.asarray(tomogram.data[tomogram.shape[0] // 2], dtype=np.float64)
    low, high = np.nanpercentile(middle, (1, 99)) if np.isfinite(middle).any() else (0.0, 1.0)
    options = {
        "name": tomogram.name,
        "scale": (tomogram.voxel_size,) * 3,
        "units": ("angstrom",) * 3,
        # A single slice is mostly noise: the viewer can show the mean of several.
        "projection_mode": "mean",
        "contrast_limits": (float(low), float(max(high, np.nextafter(low, np.inf)))),
        "metadata": {
            METADATA: {
                "path": str(tomogram.path or ""),
                "shape": tomogram.shape,
                "extent": tomogram.extent,
                "pixel_size": tomogram.pixel_size,
            }
        },
    }
    return tomogram.data, options, "image"


def points_layer(
    voxels: np.ndarray[Any, Any], *, name: str, voxel_size: float, radius: float | None = None
) -> LayerData:
    """Show particles as circles of their size in every slice that they reach.

    Parameters
    ----------
    voxels
        (n, 3) ``z y x``.
    voxel_size, radius
        Ångström.
    """
    options = {
        "name": name,
        "scale": (voxel_size,) * 3,
        "units": ("angstrom",) * 3,
        "size": 10.0 if radius is None else 2 * radius / voxel_size,
        "face_color": "transparent",
        "border_color": "orange",
        "border_width": 0.1,
        # As wide as the particle is there, where a slice cuts it off its centre.
        "projection_mode": "rescale_spherical",
        "ndim": 3,
    }
    return np.asarray(voxels, dtype=np.float64).reshape(-1, 3), options, "points"


def write_points(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write a layer of points in the format that the file's name tells, in its own place.

    Parameters
    ----------
    path
        Its ending chooses the format; of several the likeliest: `tomopicker convert` has all.
    data
        (n, 3) voxels ``z y x``.
    attributes
        What napari knows of the layer: `scale` is the voxel size in ångström.

    Returns
    -------
    list
        What was written.

    Raises
    ------
    InputError
        When the layer is not of a volume, or the format needs more than the layer tells.
    """
    voxels = np.asarray(data, dtype=np.float64).reshape(len(data), -1)
    if voxels.shape[1] != 3:
        raise InputError(f"{path}: these points have {voxels.shape[1]} axes; picks have z, y and x")
    formats = formats_of_name(Path(path))
    if not formats:
        raise InputError(f"{path}: no format is written so; give a name that ends as .star or .csv")
    scale = np.asarray(attributes.get("scale", (1.0,) * 3), dtype=np.float64)
    if not np.allclose(scale, scale[0]):
        raise InputError(f"{path}: the layer's scale differs along its axes; voxels are cubes")
    known = _tomogram_of(attributes)
    if FORMATS[formats[0]].writes_shape and "shape" not in known:
        raise InputError(
            f"{path}: {formats[0]} needs the tomogram; open it here first, with TomoPicker"
        )
    features = attributes.get("features")
    scores = None if features is None or "score" not in features else np.asarray(features["score"])
    particles = Particles.from_voxels(voxels, voxel_size=float(scale[0]), scores=scores)
    write_particles(
        path,
        particles,
        format=formats[0],
        shape=known.get("shape"),
        pixel_size=known.get("pixel_size"),
        extent=known.get("extent"),
        # napari has asked already.
        overwrite=True,
    )
    return [path]


def _read_tomograms(path: Any) -> list[LayerData]:
    return [image_layer(read_tomogram(one)) for one in _all(path)]


def _read_lists(path: Any) -> list[LayerData]:
    """Read picks into the voxels of the tomogram that is open."""
    known = _open_tomogram()
    layers = []
    for one in _all(path):
        if known is None and not FORMATS[recognise(one)].in_voxels:
            raise InputError(
                f"{one}: counts in ångström; open its tomogram first, which tells the voxel size"
            )
        voxel_size, about = known or (1.0, {})
        particles = read_particles(
            one,
            voxel_size=voxel_size,
            shape=about.get("shape"),
            pixel_size=about.get("pixel_size"),
            extent=about.get("extent"),
        )
        data, options, kind = points_layer(particles.voxels, name=one.stem, voxel_size=voxel_size)
        if particles.scores is not None:
            options["features"] = {"score": particles.scores}
        options["metadata"] = {METADATA: about}
        layers.append((data, options, kind))
    return layers


def _all(path: Any) -> list[Path]:
    return [Path(one) for one in ([path] if isinstance(path, str | Path) else path)]


def _open_tomogram() -> tuple[float, dict[str, Any]] | None:
    """Voxel size and description of the tomogram in the viewer: the selected one, or the last."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return None
    ours = [layer for layer in viewer.layers if "shape" in layer.metadata.get(METADATA, {})]
    images = [layer for layer in ours if type(layer).__name__ == "Image"]
    if not images:
        return None
    active = viewer.layers.selection.active
    layer = active if active in images else images[-1]
    return float(layer.scale[-1]), dict(layer.metadata[METADATA])


def _tomogram_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the tomogram that points are of: what they say, or what is open."""
    own = dict(attributes.get("metadata", {}).get(METADATA, {}))
    if "shape" in own:
        return own
    known = _open_tomogram()
    return {} if known is None else known[1]

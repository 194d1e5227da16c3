"""The same work done in two ways: ours beside the paper's steps as written, and beside MONAI."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import naive
import numpy as np
import torch
from limits import interleaved
from scipy.ndimage import gaussian_filter

from tomopicker.checkpoint import read_checkpoint
from tomopicker.config import preset
from tomopicker.inference import features_of, network_of, score
from tomopicker.io.tomograms import read_tomogram
from tomopicker.labels import stamp
from tomopicker.network import build
from tomopicker.peaks import find_peaks
from tomopicker.preprocess import Normalisation
from tomopicker.rescale import rescale
from tomopicker.types import Tomogram, Window
from tomopicker.windows import grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.types import Shape

SIDE = 16
"""Of the paper's subvolumes."""
RADIUS = 12

_CLICKS, _CLICKS_MEASURED = 100, 4
_PICKS_MEASURED = 20


def beside_the_paper(
    model: Path, file: Path, *, scored: Shape, repeats: int
) -> dict[str, dict[str, Any]]:
    """Time the paper's steps as `naive` has them beside ours, one after the other.

    Parameters
    ----------
    scored
        Shape of the part of the tomogram that is scored, as the paper's network is slow.

    Returns
    -------
    dict
        For each step the two timings; what was measured of the naive one only in part has the
        factor to the whole.
    """
    checkpoint, tomogram = read_checkpoint(model), read_tomogram(file)
    features = features_of(checkpoint, tomogram)
    shape = features.shape
    standardised = features.density(Window(corner=(0, 0, 0), shape=shape))
    centres = np.random.default_rng(0).integers(0, shape, size=(_CLICKS, 3))
    labels = stamp(shape, centres.astype(float), radius=RADIUS)
    data = np.asarray(tomogram.data)

    def standardise() -> NDArray[np.float32]:
        return Normalisation.of(data, source=str(file)).apply(data)

    def cut_all() -> None:
        for window in grid(shape, side=SIDE, stride=SIDE):
            features.read(window)

    def save_and_load_all() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for pair in naive.save_subvolumes(standardised, labels, Path(folder), SIDE):
                for path in pair:
                    np.load(path)

    rows = {
        "standardise": (standardise, lambda: naive.standardise(data), 1.0),
        f"label {_CLICKS} particles": (
            lambda: stamp(shape, centres.astype(float), radius=RADIUS),
            lambda: naive.mask(shape, centres[:_CLICKS_MEASURED], RADIUS),
            _CLICKS / _CLICKS_MEASURED,
        ),
        f"subvolumes of {SIDE}³, once": (cut_all, save_and_load_all, 1.0),
    }
    results = {
        name: {"shape": list(shape), **_pair(ours, theirs, factor, repeats)}
        for name, (ours, theirs, factor) in rows.items()
    }
    results["standardise"]["shape"] = list(data.shape)
    return results | _scoring(checkpoint, tomogram, scored, repeats)


def _scoring(
    checkpoint: Checkpoint, tomogram: Tomogram, scored: Shape, repeats: int
) -> dict[str, dict[str, Any]]:
    """Inference of the paper, subvolume by subvolume, beside tiles with a halo."""
    description = checkpoint.description
    default = description.config
    paper = preset(
        "paper",
        radius_angstrom=default.radius_angstrom,
        voxel_size=default.radius_angstrom / RADIUS,
        overrides={"sampling.side": SIDE, "sampling.stride": SIDE, "inference.method": "whole"},
    )
    rescaled = rescale(tomogram, description.voxel_size)
    part = replace(rescaled, data=rescaled.data[tuple(slice(length) for length in scored)])
    both = features_of(checkpoint, part)
    without_filter = description.model_copy(update={"filter_profile": None})
    plain = features_of(replace(checkpoint, description=without_filter), part)
    standardised = plain.density(Window(corner=(0, 0, 0), shape=scored))
    torch.manual_seed(0)
    theirs, ours = build(paper.network), build(default.network)
    tasks = {
        "naive": lambda: naive.infer(standardised, theirs, SIDE),
        "same network": lambda: score(plain, theirs, paper),
        "default": lambda: score(both, ours, default),
    }
    taken = interleaved(tasks, repeats)
    names = {
        "same network": "score with the paper's network",
        "default": "score, with the network of `default`",
    }
    return {
        title: {"shape": list(scored), "ours": taken[name], "naive": taken["naive"], "factor": 1.0}
        for name, title in names.items()
    }


def beside_monai(model: Path, *, shape: Shape, tile: int, repeats: int) -> dict[str, Any]:
    """Time scoring in tiles beside MONAI's sliding window, with the same network and tile.

    Parameters
    ----------
    shape
        Of the volume of noise that is scored: multiples of the network's stride.

    Returns
    -------
    dict
        For each way its timing and its largest difference from the volume scored in one piece; or
        the reason why MONAI is not there.
    """
    try:
        import monai
        from monai.inferers import SlidingWindowInferer
    except ImportError as error:
        return {"left_out": f"MONAI cannot be imported ({error})"}
    checkpoint = read_checkpoint(model)
    network = network_of(checkpoint)
    noise = Tomogram(
        name="noise",
        data=np.random.default_rng(1).standard_normal(shape, np.float32),
        voxel_size=checkpoint.description.voxel_size,
    )
    features = features_of(checkpoint, noise)
    everything = Window(corner=(0, 0, 0), shape=shape)

    def ours(side: int) -> NDArray[np.float32]:
        config = checkpoint.description.config
        inference = config.inference.model_copy(update={"tile": side})
        return score(features, network, config.model_copy(update={"inference": inference}))

    @torch.inference_mode()
    def theirs(overlap: float, mode: str) -> NDArray[np.float32]:
        roi = tuple(min(tile, length) for length in shape)
        inferer = SlidingWindowInferer(roi, sw_batch_size=1, overlap=overlap, mode=mode)
        volume = torch.from_numpy(features.read(everything))[None]
        # It wants a channel axis, (1 1 z y x), which our logits have not.
        return inferer(volume, lambda some: network(some)[:, None])[0, 0].numpy()

    tasks = {
        "ours": lambda: ours(tile),
        "MONAI, overlap 0.25, its default": lambda: theirs(0.25, "constant"),
        "MONAI, overlap 0.5, Gaussian": lambda: theirs(0.5, "gaussian"),
    }
    in_one_piece = ours(max(shape))
    differences = {name: float(np.abs(task() - in_one_piece).max()) for name, task in tasks.items()}
    taken = interleaved(tasks, repeats)
    return {
        "version": monai.__version__,
        "shape": list(shape),
        "tile": tile,
        "spread_of_scores": float(in_one_piece.std()),
        "ways": {name: taken[name] | {"difference": differences[name]} for name in tasks},
    }


def peaks_beside_the_loop(shape: Shape, *, count: int, repeats: int) -> dict[str, Any]:
    """Time `find_peaks` beside the loop over the whole volume, whose first picks stand for all."""
    scores = blurred_noise(shape)
    left = scores.copy()  # the loop goes on where it was, at the same cost for each pick
    pair = _pair(
        lambda: find_peaks(scores, radius=RADIUS, count=count),
        lambda: naive.peaks(left, radius=RADIUS, count=_PICKS_MEASURED),
        count / _PICKS_MEASURED,
        repeats,
    )
    return {"shape": list(shape), "count": count, **pair}


def blurred_noise(shape: Shape) -> NDArray[np.float32]:
    """Scores about as smooth as a network's, cheap to make even for a large volume: (z, y, x)."""
    rng = np.random.default_rng(0)
    side = [min(length, 128) for length in shape]
    block = gaussian_filter(rng.standard_normal(side, np.float32), 3, mode="wrap")
    block /= block.std()
    scores = np.empty(shape, dtype=np.float32)
    for number, plane in enumerate(scores):
        one = block[number % side[0]]
        repeats = [-(-length // width) for length, width in zip(shape[1:], side[1:], strict=True)]
        plane[...] = np.tile(one, repeats)[: shape[1], : shape[2]]
        plane += 0.1 * rng.standard_normal(shape[1:], np.float32)
    return scores


def _pair(ours: Any, theirs: Any, factor: float, repeats: int) -> dict[str, Any]:
    taken = interleaved({"ours": ours, "naive": theirs}, repeats)
    return {**taken, "factor": factor}

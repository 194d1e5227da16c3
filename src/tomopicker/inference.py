"""Inference: score a whole tomogram (paper 3.4)."""

from __future__ import annotations

from contextlib import closing
from itertools import compress, product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from tomopicker.augment import FLIPS
from tomopicker.checkpoint import check_weights
from tomopicker.errors import InputError, is_out_of_memory
from tomopicker.features import Features, compute_features
from tomopicker.mask import kept_box, within
from tomopicker.matched_filter import RadialFilter
from tomopicker.memory import automatic_bytes, streamed_bytes
from tomopicker.network import build, folded, receptive_radius, stream
from tomopicker.prefetch import one_ahead
from tomopicker.preprocess import Normalisation, finite
from tomopicker.rescale import rescale, rescaled_voxel_size
from tomopicker.types import Shape, Window
from tomopicker.windows import around, grid, inside, shifted, tile_of, tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.config import Config
    from tomopicker.types import Tomogram
    from tomopicker.windows import Tile

_Part: TypeAlias = "tuple[Window, NDArray[np.float32] | None, float]"
"""A window of the volume, its logits, and the share of the work done; None where a mask keeps
nothing, so that nothing was computed."""

_TOO_MUCH = 2.0  # times its own voxels that a tomogram's tiles read, halos and all

_VOXEL_SIZE_TOLERANCE = 0.02
"""A particle 2 % larger or smaller is still the same particle to the network."""


def score_tiles(
    features: Features, network: nn.Module, config: Config, *, device: str = "cpu"
) -> Iterator[tuple[Window, NDArray[np.float32], float]]:
    """Score a tomogram part by part.

    With `inference.method` "whole" the parts are tiles with a halo as wide as the network sees, so
    the scores do not depend on the tiles. With "windows" they are the non-overlapping windows of
    the paper, padded with the mean at the far faces. With `inference.filter_weight` the filter's
    correlation is added to the logits. Voxels without a finite value, and those that a mask leaves
    out, score -inf.

    Yields
    ------
    tuple
        The window of the volume, its scores ``z y x`` (float32), and the share of the work done.
    """
    if config.inference.method == "windows":
        parts = _score_windows(features, network, config, device)
    else:
        parts = _score_whole(features, network, config, device)
    weight = np.float32(config.inference.filter_weight)
    for window, logits, done in parts:
        at = inside(window, features.shape)
        z, y, x = at.shape
        if not (z and y and x):
            continue
        if logits is None:
            yield at, np.broadcast_to(np.float32(-np.inf), at.shape), done
        else:
            known = finite(np.asarray(features.data[at.slices]))
            scores = logits[:z, :y, :x]
            if weight and features.correlation is not None:
                scores = scores + weight * features.correlation[at.slices]
            if features.mask is not None:
                scores = np.where(within(features.mask, features.shape, at), scores, -np.inf)
            yield at, scores if known is None else np.where(known, scores, -np.inf), done


def score(
    features: Features,
    network: nn.Module,
    config: Config,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Score a whole tomogram: ``z y x``, float32. `progress` hears the share done."""
    z, y, x = features.shape
    # Tiles are done along y. With that axis first in memory, the scores take no more of it than
    # are done, while the correlation is let go.
    scores = np.empty((y, z, x), dtype=np.float32).transpose(1, 0, 2)
    for window, logits, done in score_tiles(features, network, config, device=device):
        scores[window.slices] = logits
        progress(done)
    return scores


def network_of(checkpoint: Checkpoint) -> nn.Module:
    """Build a checkpoint's network with its weights, in evaluation mode."""
    settings = checkpoint.description.config.network
    # On no memory first: a damaged description may ask for a network of terabytes.
    with torch.device("meta"):
        check_weights(build(settings), checkpoint.weights)
    network = build(settings)
    checkpoint.load_into(network)
    return network.eval()


def scored_voxel_size(checkpoint: Checkpoint, tomogram: Tomogram) -> float:
    """Edge in ångström of the voxels that a tomogram is scored at.

    A checkpoint trained with `preprocessing.working_radius` has every tomogram brought to its own
    voxel size; one trained without takes only tomograms that have it, within 2 %.

    Raises
    ------
    InputError
        When the tomogram's voxel size is too far from the training tomograms'.
    """
    description = checkpoint.description
    if description.config.preprocessing.working_radius is not None:
        return rescaled_voxel_size(tomogram, description.voxel_size)
    if abs(tomogram.voxel_size / description.voxel_size - 1) > _VOXEL_SIZE_TOLERANCE:
        raise InputError(
            f"{tomogram.path or tomogram.name}: voxel size {tomogram.voxel_size:g} Å, but this "
            f"model was trained at {description.voxel_size:g} Å: rescale the tomogram, or train "
            "on one of this size"
        )
    return tomogram.voxel_size


def features_of(checkpoint: Checkpoint, tomogram: Tomogram) -> Features:
    """Compute a tomogram's channels as the checkpoint was trained, of `scored_voxel_size` voxels.

    Raises
    ------
    InputError
        As `scored_voxel_size` does, or when the volume cannot be standardised.
    """
    radial = None
    if checkpoint.description.filter_profile is not None:
        radial = RadialFilter(profile=np.array(checkpoint.description.filter_profile))
    return _features(checkpoint, tomogram, radial)


def plain_features_of(checkpoint: Checkpoint, tomogram: Tomogram) -> Features:
    """Compute the channels that a template looks at: those of `features_of` but the correlation.

    Raises
    ------
    InputError
        As `features_of` does.
    """
    return _features(checkpoint, tomogram, None)


def _features(checkpoint: Checkpoint, tomogram: Tomogram, radial: RadialFilter | None) -> Features:
    description = checkpoint.description
    if scored_voxel_size(checkpoint, tomogram) != tomogram.voxel_size:
        tomogram = rescale(tomogram, description.voxel_size)
    tomogram = tomogram.loaded()
    normalisation = Normalisation.of(
        tomogram.data,
        clip_sigma=description.config.preprocessing.clip_sigma,
        source=str(tomogram.path or tomogram.name),
    )
    return compute_features(tomogram, normalisation, radial)


def _score_windows(
    features: Features, network: nn.Module, config: Config, device: str
) -> Iterator[_Part]:
    side, batch = config.sampling.side, config.training.batch
    windows = grid(features.shape, side=side, stride=side)
    network = folded(network).to(device)
    left_out = [_kept(features, window) is None for window in windows]
    kept = [window for window, out in zip(windows, left_out, strict=True) if not out]
    starts = range(0, len(kept), batch)
    volumes = (
        np.stack([features.read(window) for window in kept[start : start + batch]])
        for start in starts
    )
    with closing(one_ahead(volumes)) as blocks:
        for start, block in zip(starts, blocks, strict=True):
            some = kept[start : start + batch]
            logits = _forward(
                network, torch.from_numpy(block).to(device), flips=config.inference.flips
            )
            done = min(start + batch, len(kept)) / len(kept)
            for window, scores in zip(some, logits.cpu().numpy(), strict=True):
                yield window, scores, done
    for window in compress(windows, left_out):
        yield window, None, 1.0


@torch.inference_mode()
def _forward(network: nn.Module, volumes: Tensor, *, flips: bool) -> Tensor:
    """(b, c, z, y, x) -> (b, z, y, x) logits, averaged over the eight flips if asked."""
    if not flips:
        logits: Tensor = network(volumes)
        return logits
    total = torch.zeros_like(volumes[:, 0])
    for axes in FLIPS:
        total += torch.flip(network(torch.flip(volumes, axes)), axes)
    return total / len(FLIPS)


def _score_whole(
    features: Features, network: nn.Module, config: Config, device: str
) -> Iterator[_Part]:
    stride = config.network.stride
    z, y, x = (-(-length // stride) * stride for length in features.shape)
    shape: Shape = (z, y, x)
    whole = Window(corner=(0, 0, 0), shape=shape)
    box = _kept(features, whole, multiple=stride)
    if box is None:
        yield whole, None, 1.0
        return
    for window in around(whole, box):
        yield window, None, 0.0
    halo = receptive_radius(config.network)
    trained, dtype = network, _precision(device)
    network = folded(trained, dtype=dtype)
    side = config.inference.tile
    if side is None:
        sides = _sides(box, shape, config, dtype, halo=halo, device=device)
    else:
        sides = (box.shape[0], side, side)
    waiting = [
        tile_of(shifted(tile.core, box.corner), shape, halo=halo)
        for tile in tiles(box.shape, side=sides, halo=0, multiple=stride)
    ]
    network.to(device)
    done, least = 0.0, 0.0
    while waiting:
        tile = waiting.pop(0)
        kept = _kept(features, tile.core, multiple=stride)
        for window in [tile.core] if kept is None else around(tile.core, kept):
            done += window.size / box.size
            yield window, None, least
        if kept is None:
            continue
        tile, share = tile_of(kept, shape, halo=halo), kept.size / box.size
        failed = overflowed = False
        try:
            for window, logits in _score_tile(features, network, tile, config, device):
                if dtype == torch.float16 and not np.isfinite(logits).all():
                    overflowed = True
                    break
                # Beyond the volume there are planes of padding.
                planes = min(kept.shape[0], features.shape[0] - kept.corner[0])
                part = (window.corner[0] + window.shape[0] - kept.corner[0]) / planes
                least = max(least, min(done + min(part, 1.0) * share, 1.0))
                yield window, logits, least
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        # Out of the handler, whose traceback still holds the tile's tensors.
        if failed:
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
            waiting[:0] = _halves(tile, shape, halo=halo, multiple=stride, device=device)
        elif overflowed:
            # Few networks have activations above 65,504. Without a score no particle is found.
            dtype = torch.float32
            network = folded(trained, dtype=dtype).to(device)
            waiting.insert(0, tile)
        else:
            done += share
            features.let_go(before=min((tile.read.corner[1] for tile in waiting), default=shape[1]))


def _kept(features: Features, window: Window, *, multiple: int = 1) -> Window | None:
    """The part of a window that has to be scored; None where a mask keeps nothing of it.

    Its corners are multiples of `multiple`, as the window's are.
    """
    if features.mask is None:
        return window
    box = kept_box(features.mask, features.shape, inside(window, features.shape))
    if box is None:
        return None
    (z, y, x), (depth, high, wide) = (
        [start // multiple * multiple for start in box.corner],
        [
            -(-(start + size) // multiple) * multiple - start // multiple * multiple
            for start, size in zip(box.corner, box.shape, strict=True)
        ],
    )
    return Window(corner=(z, y, x), shape=(depth, high, wide))


def _sides(
    box: Window, shape: Shape, config: Config, dtype: torch.dtype, *, halo: int, device: str
) -> Shape:
    """Sides of the tiles of a box that read least and fit the memory; along z all of it is one.

    Memory that nobody spoke of is what is enough; where tiles that fit it read too much, they are
    the smallest that do not.
    """
    stride = config.network.stride
    each = streamed_bytes(config.network, dtype)
    if config.inference.flips:
        each += 4 * box.shape[0]  # their sum
    memory = config.inference.memory
    enough, most = automatic_bytes(device) if memory is None else 2 * (memory * 1e9,)
    z, y, x = box.shape
    # A box has a halo of its own on faces that are not the volume's.
    beside_y, beside_x = (
        min(start, halo) + min(length - start - size, halo)
        for start, size, length in zip(box.corner[1:], box.shape[1:], shape[1:], strict=True)
    )
    ways: list[tuple[int, int, Shape]] = []  # voxels that the largest tile reads, and that all do
    # Of equal ones the most rows, with each of which some of the correlation can be let go.
    for columns, rows in product(range(1, x // stride + 1), range(1, y // stride + 1)):
        high, wide = -(-y // rows), -(-x // columns)
        # Tiles in the middle have a halo on both sides, those of one or two none or one.
        around_y = min(halo * (rows - 1) + beside_y, 2 * halo)
        around_x = min(halo * (columns - 1) + beside_x, 2 * halo)
        area = min(high + around_y, y + beside_y) * min(wide + around_x, x + beside_x)
        read = (y + 2 * halo * (rows - 1) + beside_y) * (x + 2 * halo * (columns - 1) + beside_x)
        ways.append((area, read, (z, high, wide)))
    least = min(way[0] for way in ways)
    fitting = [way for way in ways if way[0] <= max(most / each, least)]
    small = [way for way in fitting if way[0] * each <= enough]
    best = min(small, key=lambda way: way[1], default=None)
    if best is None or best[1] > _TOO_MUCH * y * x:
        best = min(fitting, key=lambda way: (max(way[1], _TOO_MUCH * y * x), way[0]))
    return best[2]


def _halves(tile: Tile, shape: Shape, *, halo: int, multiple: int, device: str) -> list[Tile]:
    """Split a tile that did not fit the memory across its longer side."""
    axis = 1 if tile.core.shape[1] >= tile.core.shape[2] else 2
    length = tile.core.shape[axis]
    if length <= multiple:
        _, y, x = tile.read.shape
        raise InputError(
            f"the memory of {device} is too small to score even a column of {y} x {x} voxels: end "
            "other programs that use it, or take another --device"
        )
    first = -(-length // (2 * multiple)) * multiple
    halves = []
    for start, size in ((0, first), (first, length - first)):
        corner, sides = list(tile.core.corner), list(tile.core.shape)
        corner[axis] += start
        sides[axis] = size
        core = Window(
            corner=(corner[0], corner[1], corner[2]), shape=(sides[0], sides[1], sides[2])
        )
        halves.append(tile_of(core, shape, halo=halo))
    return halves


def _score_tile(
    features: Features, network: nn.Module, tile: Tile, config: Config, device: str
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Logits of a tile's core, slab by slab; with flips at once, when their mean is known."""
    planes = config.network.stride
    if not config.inference.flips:
        yield from _stream_tile(features, network, tile, planes, device, ())
        return
    total = np.zeros(tile.core.shape, dtype=np.float32)
    for axes in FLIPS:
        for window, logits in _stream_tile(features, network, tile, planes, device, axes):
            start = window.corner[0] - tile.core.corner[0]
            total[start : start + len(logits)] += logits
    total /= len(FLIPS)
    yield tile.core, total


def _stream_tile(
    features: Features,
    network: nn.Module,
    tile: Tile,
    planes: int,
    device: str,
    axes: tuple[int, ...],
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Logits of a tile's core, slab by slab along z, by the network on the flipped volume."""
    (length, *sides), (first, *corner) = tile.read.shape, tile.read.corner
    windows = [
        Window(
            corner=(first + z, corner[0], corner[1]),
            shape=(min(planes, length - z), sides[0], sides[1]),
        )
        for z in range(0, length, planes)
    ]
    backwards = -3 in axes
    if backwards:
        windows.reverse()
    depth, rows, columns = tile.core_in_read
    done = 0
    with closing(one_ahead(map(features.read, windows))) as blocks:
        for slab in _run(network, blocks, device, axes):
            start = length - done - len(slab) if backwards else done
            done += len(slab)
            low, stop = max(start, depth.start), min(start + len(slab), depth.stop)
            if low >= stop:  # of the halo
                continue
            logits = slab[low - start : stop - start, rows, columns]
            _, y, x = tile.core.corner
            _, high, wide = tile.core.shape
            yield Window(corner=(first + low, y, x), shape=(stop - low, high, wide)), logits


@torch.inference_mode()
def _run(
    network: nn.Module, blocks: Iterable[NDArray[np.float32]], device: str, axes: tuple[int, ...]
) -> Iterator[NDArray[np.float32]]:
    """(c, z, y, x) blocks, one after the other along z, to (z, y, x) logits."""
    dtype = next(network.parameters()).dtype  # the first layer's

    def slab(block: NDArray[np.float32]) -> Tensor:
        return torch.flip(torch.from_numpy(block)[None].to(device, dtype), axes)

    for logits in stream(network, map(slab, blocks)):
        yield torch.flip(logits[0], axes).cpu().numpy()


def _precision(device: str) -> torch.dtype:
    """Float16 where the hardware multiplies it, eight times as fine as bfloat16."""
    if device.startswith("cuda") and torch.cuda.get_device_capability(device) >= (7, 0):
        return torch.float16
    return torch.float32

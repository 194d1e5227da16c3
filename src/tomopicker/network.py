"""The voxel classifier, logits out: the paper's residual U-Net, and a fast one (paper 3.3)."""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tomopicker.config import Network


def build(settings: Network) -> nn.Module:
    """Make the network, with torch's default random weights.

    Parameters
    ----------
    settings
        Architecture, block, channels, dropout and number of input channels.

    Returns
    -------
    nn.Module
        Takes ``(b, c, z, y, x)`` with ``c = 2`` when ``settings.filter_channel`` and else 1;
        gives logits ``(b, z, y, x)``. Its ``forward`` raises `ValueError` when a side is not a
        multiple of ``settings.stride``.

    Notes
    -----
    `unet` is paper 3.3 with the layers the paper leaves open as its authors chose them: one
    block per channel count in the encoder, a 2-voxel maximum between, transposed convolutions of
    kernel 4 and stride 2 up. `space-to-depth` puts the 2 x 2 x 2 voxels of a cell into channels,
    runs such a U-Net at half resolution with kernel 2 up, and takes the cell apart again: about
    a tenth of the operations, and no input voxel is lost.
    """
    inputs = 1 + settings.filter_channel
    if settings.architecture == "unet":
        core = _UNet(settings, inputs=inputs, outputs=1)
        return _Classifier(core, stride=settings.stride, cells=False)
    core = _UNet(settings, inputs=8 * inputs, outputs=8)
    return _Classifier(core, stride=settings.stride, cells=True)


def folded(network: nn.Module, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Copy a network for `stream`, every batch normalisation folded into its convolution.

    In evaluation mode a normalisation is one factor and one offset per channel, which the
    convolution before it takes into its weights. The logits stay the same but for rounding.

    Parameters
    ----------
    dtype
        Of the weights but the last layer's, and so of the slabs to stream.
    """
    copy = cast("_Classifier", deepcopy(network).eval())
    for layers in [module for module in copy.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(layers) - 1):
            convolution, normalisation = layers[index], layers[index + 1]
            if isinstance(normalisation, nn.BatchNorm3d):
                up = isinstance(convolution, nn.ConvTranspose3d)
                layers[index] = fuse_conv_bn_eval(
                    cast("nn.Conv3d", convolution), normalisation, transpose=up
                )
                layers[index + 1] = nn.Identity()
    copy.to(dtype=dtype)
    copy.core.head.float()
    # Channels last, convolutions take a tenth less time on a CPU, and are made for it on a GPU.
    lasting: nn.Module = copy.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return lasting


def stream(network: nn.Module, slabs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Run a network over a volume that comes slab by slab along z.

    Every layer keeps the few planes that its next slab needs, so nothing is computed twice and
    the memory does not grow with the length of the volume. The logits are those of the network
    on the whole volume, but for rounding.

    Parameters
    ----------
    network
        From `build`, in evaluation mode.
    slabs
        (b, c, planes, y, x), one after the other. Of y, x and the planes of all slabs together
        each is a multiple of the network's stride, and of each slab's planes of 2.

    Yields
    ------
    Tensor
        (b, planes, y, x) logits, one after the other; not in the lengths of the slabs.
    """
    return cast("_Classifier", network).stream(iter(slabs))


def receptive_radius(settings: Network) -> int:
    """Give the distance in voxels beyond which an input voxel cannot change a logit.

    The distance is the largest over the three axes and over the positions of a voxel on the
    pooling grid, exact layer by layer, rounded up to a multiple of ``settings.stride``. It holds
    in evaluation mode only: in training mode batch normalisation looks at every voxel. Tiles
    whose corners are multiples of the stride and that carry a margin this wide therefore give
    the scores of the whole volume.

    >>> from tomopicker.config import Network
    >>> receptive_radius(Network(block="plain", channels=(4,)))  # two 3x3x3 convolutions
    2
    """
    cell = 2 if settings.architecture == "space-to-depth" else 1
    radius = 0
    # The pooling grid repeats with the stride, so one period of positions shows every case.
    for position in range(settings.stride):
        low, high = _seen_by(settings, 0, (position // cell, position // cell))
        low, high = cell * low, cell * high + cell - 1
        radius = max(radius, position - low, high - position)
    return -(-radius // settings.stride) * settings.stride


def parameter_count(module: nn.Module) -> int:
    """Count the trainable numbers of a module.

    >>> parameter_count(nn.Conv3d(1, 2, 3))  # 2 x 27 weights and 2 biases
    56
    """
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def space_to_depth(volumes: Tensor) -> Tensor:
    """Put each 2 x 2 x 2 cell into channels: ``(b, c, 2z, 2y, 2x)`` to ``(b, 8c, z, y, x)``.

    >>> space_to_depth(torch.arange(8).reshape(1, 1, 2, 2, 2)).flatten().tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    b, c, z, y, x = volumes.shape
    cells = volumes.reshape(b, c, z // 2, 2, y // 2, 2, x // 2, 2)
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, z // 2, y // 2, x // 2)


def depth_to_space(cells: Tensor) -> Tensor:
    """Undo `space_to_depth`: ``(b, 8c, z, y, x)`` to ``(b, c, 2z, 2y, 2x)``."""
    b, c, z, y, x = cells.shape
    voxels = cells.reshape(b, c // 8, 2, 2, 2, z, y, x)
    return voxels.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // 8, 2 * z, 2 * y, 2 * x)


class _Classifier(nn.Module):
    """Check the sides, run the U-Net at full or half resolution, drop the channel axis."""

    def __init__(self, core: _UNet, *, stride: int, cells: bool) -> None:
        super().__init__()
        self.core = core
        self.stride = stride
        self.cells = cells

    def forward(self, volumes: Tensor) -> Tensor:
        sides = tuple(volumes.shape[2:])
        if any(side % self.stride for side in sides):
            half = self.stride // 2
            nearest = tuple(
                max(self.stride, (side + half) // self.stride * self.stride) for side in sides
            )
            raise ValueError(
                f"input sides must be multiples of {self.stride}, got {sides};"
                f" the nearest are {nearest}"
            )
        if self.cells:
            logits = depth_to_space(self.core(space_to_depth(volumes)))
        else:
            logits = self.core(volumes)
        return logits.squeeze(1)  # (b 1 z y x) -> (b z y x)

    def stream(self, slabs: _Slabs) -> Iterator[Tensor]:
        if self.cells:
            slabs = map(depth_to_space, self.core.stream(map(space_to_depth, slabs)))
        else:
            slabs = self.core.stream(slabs)
        for logits in slabs:
            yield logits.squeeze(1)


class _UNet(nn.Module):
    """Encoder, decoder with skips, and a 1 x 1 x 1 head: ``(b, i, z, y, x)`` to ``(b, o, ...)``."""

    def __init__(self, settings: Network, *, inputs: int, outputs: int) -> None:
        super().__init__()
        block = _BLOCKS[settings.block]
        self.encoder = nn.ModuleList()
        encoded = []  # channels that come out of each level
        for channels in settings.channels:
            encoder = block(inputs, channels)
            self.encoder.append(encoder)
            inputs = encoder.outputs
            encoded.append(inputs)
        self.pool = nn.MaxPool3d(2)

        # From the second coarsest level to the finest, in the order of use.
        self.up = nn.ModuleList()
        self.skip = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level in reversed(range(len(settings.channels) - 1)):
            channels = settings.channels[level]
            skipped = encoded[level]
            self.up.append(_up(inputs, channels, kernel=_up_kernel(settings)))
            if settings.block == "multires":
                units = _skip_units(settings, level)
                self.skip.append(_ResPath(skipped, channels, units=units))
                skipped = channels
            else:
                self.skip.append(nn.Identity())
            decoder = block(skipped + channels, channels)
            self.decoder.append(decoder)
            inputs = decoder.outputs

        self.dropout = nn.Dropout3d(settings.dropout) if settings.dropout else nn.Identity()
        self.head = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.encoder[0](x)]
        for block in self.encoder[1:]:
            features.append(block(self.pool(features[-1])))
        x = features.pop()
        for up, skip, block in zip(self.up, self.skip, self.decoder, strict=True):
            x = block(torch.cat([skip(features.pop()), up(x)], dim=1))
        logits: Tensor = self.head(self.dropout(x))
        return logits

    def stream(self, slabs: _Slabs) -> _Slabs:
        features = []
        first, *coarser = cast("Sequence[_Plain | _Residual | _MultiRes]", self.encoder)
        slabs = first.stream(slabs)
        for block in coarser:
            skipped, slabs = _twice(slabs)
            features.append(skipped)
            slabs = block.stream(map(self.pool, _even(slabs)))
        decoder = cast("Sequence[_Plain | _Residual | _MultiRes]", self.decoder)
        for up, skip, block in zip(self.up, self.skip, decoder, strict=True):
            skipped = features.pop()
            if isinstance(skip, _ResPath):
                skipped = skip.stream(skipped)
            pairs = _side_by_side(skipped, _stream(up, slabs))
            slabs = block.stream(map(_joined, pairs))
        # In half precision the head stays single: rounded logits would be plateaus, not peaks.
        last = (self.dropout(slab).to(self.head.weight.dtype) for slab in slabs)
        return map(self.head, last)


class _Plain(nn.Module):
    """Two convolutions, the paper's `UNet block`."""

    radius = 2

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.layers = nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y

    def stream(self, slabs: _Slabs) -> _Slabs:
        return _stream(self.layers, slabs)


class _Residual(nn.Module):
    """Three convolutions with a shortcut past the last two, the paper's `ResUNet block`.

    The shortcut starts after the first convolution, where the channel counts already agree.
    """

    radius = 3

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.first = _conv(inputs, outputs)
        self.rest = nn.Sequential(
            _conv(outputs, outputs),
            nn.Conv3d(outputs, outputs, 3, padding=1),
            nn.BatchNorm3d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.first(x)
        return torch.relu(self.rest(shortcut) + shortcut)

    def stream(self, slabs: _Slabs) -> _Slabs:
        shortcuts, slabs = _twice(_stream(self.first, slabs))
        return map(_added, _side_by_side(shortcuts, _stream(self.rest, slabs)))


class _MultiRes(nn.Module):
    """Three convolutions in a row, all kept side by side, plus a 1 x 1 x 1 shortcut.

    Ibtehaz & Rahman (2020), section 3.1, in 3D: one block sees with 3, 5 and 7 voxels at once.
    The three have W/6, W/3 and W/2 filters, W = 1.67 x `channels`, rounded down.
    """

    radius = 3

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        total = 1.67 * channels
        widths = [max(1, int(total / part)) for part in (6, 3, 2)]
        self.outputs = sum(widths)
        self.convs = nn.ModuleList(
            _conv(before, after)
            for before, after in zip([inputs, *widths[:-1]], widths, strict=True)
        )
        self.shortcut = nn.Sequential(
            nn.Conv3d(inputs, self.outputs, 1), nn.BatchNorm3d(self.outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        scales = []
        for conv in self.convs:
            x = conv(x)
            scales.append(x)
        return torch.relu(torch.cat(scales, dim=1) + shortcut)

    def stream(self, slabs: _Slabs) -> _Slabs:
        shortcuts, slabs = _twice(slabs)
        scales = []
        for conv in self.convs:
            scale, slabs = _twice(_stream(conv, slabs))
            scales.append(scale)
        joined = map(_joined, _side_by_side(*scales))
        return map(_added, _side_by_side(_stream(self.shortcut, shortcuts), joined))


class _ResPath(nn.Module):
    """Convolutions with 1 x 1 x 1 shortcuts on a skip connection.

    Ibtehaz & Rahman (2020), section 3.2, in 3D: encoder features meet decoder features that have
    passed many more layers, and the finer the level the more of them, hence the more units here.
    """

    def __init__(self, inputs: int, outputs: int, *, units: int) -> None:
        super().__init__()
        sizes = [inputs] + [outputs] * (units - 1)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv3d(size, outputs, 3, padding=1), nn.BatchNorm3d(outputs))
            for size in sizes
        )
        self.shortcuts = nn.ModuleList(
            nn.Sequential(nn.Conv3d(size, outputs, 1), nn.BatchNorm3d(outputs)) for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv, shortcut in zip(self.convs, self.shortcuts, strict=True):
            x = torch.relu(conv(x) + shortcut(x))
        return x

    def stream(self, slabs: _Slabs) -> _Slabs:
        for conv, shortcut in zip(self.convs, self.shortcuts, strict=True):
            shortcuts, slabs = _twice(slabs)
            pairs = _side_by_side(_stream(shortcut, shortcuts), _stream(conv, slabs))
            slabs = map(_added, pairs)
        return slabs


_Slabs: TypeAlias = "Iterator[Tensor]"
"""(b, c, planes, y, x) of a volume, one after the other along z."""

_Block: TypeAlias = type[_Plain] | type[_Residual] | type[_MultiRes]

_BLOCKS: Mapping[str, _Block] = {"plain": _Plain, "residual": _Residual, "multires": _MultiRes}


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    )


def _up(inputs: int, outputs: int, *, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(inputs, outputs, kernel, stride=2, padding=(kernel - 2) // 2),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    )


def _stream(layer: nn.Module, slabs: _Slabs) -> _Slabs:
    """Run a layer, or several one after the other."""
    if isinstance(layer, nn.Sequential):
        for one in layer:
            slabs = _stream(one, slabs)
        return slabs
    if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 3:
        return map(_convolution(layer), _with_neighbours(slabs))
    if isinstance(layer, nn.ConvTranspose3d) and layer.kernel_size[0] == 4:
        return map(_upward(layer), _with_neighbours(slabs))
    return map(layer, slabs)  # sees single planes, or makes two of one


def _convolution(layer: nn.Conv3d) -> Callable[[Tensor], Tensor]:
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

    def convolve(slab: Tensor) -> Tensor:
        # For slabs of few planes torch would choose its own convolution, 3 to 5 times slower.
        # Half precision oneDNN has on few processors only.
        if has_onednn and slab.device.type == "cpu" and slab.dtype == torch.float32:
            return torch.mkldnn_convolution(
                slab, layer.weight, layer.bias, (0, 1, 1), (1, 1, 1), (1, 1, 1), 1
            )
        return conv3d(slab, layer.weight, layer.bias, padding=(0, 1, 1))

    return convolve


def _upward(layer: nn.ConvTranspose3d) -> Callable[[Tensor], Tensor]:
    return lambda slab: layer(slab)[:, :, 2:-2]


# Between two slabs a generator keeps what its variables name. Hence the `del` and the chains of
# `map` below: each tensor of a large slab that were kept for nothing would cost as much memory as
# a layer.


def _twice(slabs: _Slabs) -> tuple[_Slabs, _Slabs]:
    """Yield the slabs of a stream in two places, each kept until both have it.

    `itertools.tee` keeps up to 57 that both have had.
    """

    def take(mine: deque[Tensor], other: deque[Tensor]) -> _Slabs:
        while mine or _is_followed(slabs, mine, other):
            yield mine.popleft()

    one: deque[Tensor] = deque()
    two: deque[Tensor] = deque()
    return take(one, two), take(two, one)


def _is_followed(slabs: _Slabs, *waiting: deque[Tensor]) -> bool:
    """Have the next slab of a stream wait in several places; False when there is none."""
    slab = next(slabs, None)
    if slab is None:
        return False
    for queue in waiting:
        queue.append(slab)
    return True


def _with_neighbours(slabs: _Slabs) -> _Slabs:
    """Give each slab a plane more on either side; beyond the volume's faces it is zero."""
    last = None
    for slab in slabs:
        if last is None:
            last = torch.zeros_like(slab[:, :, :1])
        block = torch.cat([last, slab], dim=2)
        del slab
        last = block[:, :, -2:].clone()
        if block.shape[2] > 2:
            blocks = [block]
            del block
            yield blocks.pop()
    if last is not None:
        yield torch.cat([last, torch.zeros_like(last[:, :, :1])], dim=2)


def _even(slabs: _Slabs) -> _Slabs:
    """Regroup slabs so that each has an even number of planes."""
    odd = None
    for slab in slabs:
        whole = slab if odd is None else torch.cat([odd, slab], dim=2)
        del slab
        planes = whole.shape[2] // 2 * 2
        odd = whole[:, :, planes:].clone() if planes < whole.shape[2] else None
        blocks = [whole[:, :, :planes]]
        del whole
        if planes:
            yield blocks.pop()


def _side_by_side(*streams: _Slabs) -> Iterator[tuple[Tensor, ...]]:
    """Yield slabs of the same planes of several streams, in the lengths of the last, the latest."""
    *others, last = streams
    waiting: list[list[Tensor]] = [[] for _ in others]
    for slab in last:
        planes = slab.shape[2]
        group = [_take(kept, other, planes) for kept, other in zip(waiting, others, strict=True)]
        groups = [(*group, slab)]
        del slab, group
        yield groups.pop()


def _take(kept: list[Tensor], slabs: _Slabs, planes: int) -> Tensor:
    """Take so many planes of a stream; what is left of its last slab is kept."""
    while sum(slab.shape[2] for slab in kept) < planes:
        kept.append(next(slabs))
    whole = kept[0] if len(kept) == 1 else torch.cat(kept, dim=2)
    # A copy, as a view of the few planes that are left would keep all of them.
    kept[:] = [whole[:, :, planes:].clone()] if planes < whole.shape[2] else []
    return whole[:, :, :planes]


def _joined(group: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(group, dim=1)


def _added(group: tuple[Tensor, ...]) -> Tensor:
    shortcut, values = group
    return torch.relu(values + shortcut)


def _up_kernel(settings: Network) -> int:
    return 4 if settings.architecture == "unet" else 2


def _skip_units(settings: Network, level: int) -> int:
    return len(settings.channels) - 1 - level


def _seen_by(settings: Network, level: int, voxels: tuple[int, int]) -> tuple[int, int]:
    """Give the first and last input voxel of a level that its voxels first..last depend on.

    Coordinates are those of the level, along one axis. The outputs of a level's decoder see its
    inputs by two ways, through the skip connection and through the coarser level.
    """
    block = _BLOCKS[settings.block].radius
    low, high = voxels[0] - block, voxels[1] + block
    if level == len(settings.channels) - 1:
        return low, high
    # An output voxel o of a transposed convolution of stride 2 gets 2 i - padding + k.
    padding = (_up_kernel(settings) - 2) // 2
    last_tap = _up_kernel(settings) - 1
    coarse = (-((last_tap - padding - low) // 2), (high + padding) // 2)
    below_low, below_high = _seen_by(settings, level + 1, coarse)
    pooled_low, pooled_high = 2 * below_low, 2 * below_high + 1
    path = _skip_units(settings, level) if settings.block == "multires" else 0
    return min(low - path, pooled_low) - block, max(high + path, pooled_high) + block

"""The classifier has the published size, full-resolution logits and a known reach."""

import pytest
import torch

from tomopicker.config import Network
from tomopicker.network import (
    _take,
    build,
    depth_to_space,
    folded,
    parameter_count,
    receptive_radius,
    space_to_depth,
    stream,
)

_SMALL = {
    f"{architecture}-{block}-{len(channels)}": Network(
        architecture=architecture, block=block, channels=channels
    )
    for architecture in ("unet", "space-to-depth")
    for block in ("residual", "plain", "multires")
    for channels in ((2, 3), (2, 3, 4))
}


@pytest.fixture(params=_SMALL.values(), ids=_SMALL.keys())
def settings(request):
    return request.param


def _awake(settings):
    """Build with random weights whose few channels are not all shut by a ReLU."""
    torch.manual_seed(1)
    network = build(settings).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.constant_(module.bias, 1.0)
    return network


def _count(**settings):
    with torch.device("meta"):  # no weights are needed to count them
        return parameter_count(build(Network(**settings)))


def test_the_residual_unet_has_the_published_number_of_parameters():
    # First layer of the first block: 32 filters of 1 x 27 weights and a bias, 896, and the
    # 2 x 32 of its batch normalisation; the head: 32 weights and a bias.
    assert _count(channels=(32, 64, 128, 256)) == 10_944_225
    assert _count(channels=(32, 64, 128)) == 2_650_081


def test_a_second_input_channel_costs_one_more_kernel_per_first_filter():
    # 32 filters x 27 weights.
    assert _count(filter_channel=True) == 10_944_225 + 32 * 27


def test_the_plain_unet_has_the_residual_one_less_a_convolution_per_block():
    # A block of c channels loses one convolution, 27 c c + c, and its normalisation, 2 c;
    # there are two blocks of each channel count, one of the coarsest.
    lost = sum(2 * (27 * c * c + 3 * c) for c in (32, 64, 128)) + 27 * 256 * 256 + 3 * 256
    assert _count(block="plain", channels=(32, 64, 128, 256)) == 10_944_225 - lost == 8_011_425


def test_the_multires_unet_has_the_number_of_parameters_its_widths_give():
    # One level: W = 1.67 x 32 = 53.44, so 8 + 17 + 26 = 51 filters. Convolutions with biases and
    # normalisations: (27 x 1 + 3) 8 = 240, (27 x 8 + 3) 17 = 3723, (27 x 17 + 3) 26 = 12012; the
    # shortcut (1 + 3) 51 = 204; the head 51 + 1 = 52.
    assert _count(block="multires", channels=(32,)) == 240 + 3723 + 12012 + 204 + 52
    assert _count(block="multires", channels=(32, 64, 128, 256)) == 8_574_354


def test_the_fast_network_has_the_number_of_parameters_its_cells_give():
    # One level: (27 x 8 + 3) 32 and (27 x 32 + 3) 32, and a head of 8 x (32 + 1).
    one = _count(architecture="space-to-depth", block="plain", channels=(32,))
    assert one == 219 * 32 + 867 * 32 + 8 * 33
    assert _count(architecture="space-to-depth", block="plain", channels=(32, 64, 128)) == 1_363_112


def test_logits_have_the_shape_of_the_volume(settings):
    side = settings.stride
    volumes = torch.randn(2, 1, side, 2 * side, 3 * side)  # (b c z y x)
    assert build(settings)(volumes).shape == (2, side, 2 * side, 3 * side)


def test_two_input_channels_are_both_used(settings):
    network = _awake(settings.model_copy(update={"filter_channel": True}))
    volumes = torch.randn(1, 2, *3 * [settings.stride], requires_grad=True)
    network(volumes).sum().backward()
    assert (volumes.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()


def test_every_parameter_learns(settings):
    network = build(settings)
    torch.manual_seed(0)
    network(torch.randn(2, 1, *3 * [2 * settings.stride])).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_dropout_changes_scores_in_training_only():
    network = build(Network(channels=(4, 4), dropout=0.5))
    volumes = torch.randn(1, 1, 4, 4, 4)
    network.eval()
    assert torch.equal(network(volumes), network(volumes))
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout3d):
            module.train()
    assert any(not torch.equal(network(volumes), network(volumes)) for _ in range(20))


@pytest.mark.parametrize(
    ("architecture", "stride", "nearest"),
    [("unet", 4, r"\(28, 32, 4\)"), ("space-to-depth", 8, r"\(24, 32, 8\)")],
)
def test_a_side_off_the_stride_is_refused_with_the_nearest_that_fits(architecture, stride, nearest):
    network = build(Network(architecture=architecture, channels=(2, 2, 2)))
    with pytest.raises(ValueError, match=f"multiples of {stride}, got .27, 32, 1.; .*{nearest}"):
        network(torch.zeros(1, 1, 27, 32, 1))


def test_space_to_depth_keeps_every_voxel_in_its_place():
    volumes = torch.arange(2 * 3 * 4 * 6 * 2).reshape(2, 3, 4, 6, 2)
    cells = space_to_depth(volumes)  # (b 8c z y x)
    assert cells.shape == (2, 24, 2, 3, 1)
    # Channel 8 c + 4 dz + 2 dy + dx of a cell is the voxel (dz, dy, dx) of it.
    assert cells[1, 8 * 2 + 4 + 1, 1, 2, 0] == volumes[1, 2, 3, 4, 1]
    assert torch.equal(depth_to_space(cells), volumes)


def test_no_input_beyond_the_receptive_radius_has_a_gradient(settings):
    network = _awake(settings).double()
    radius, stride = receptive_radius(settings), settings.stride
    # A slim column suffices: the layers treat the axes alike.
    depth = 2 * (radius + stride) + stride
    volumes = torch.randn(1, 1, depth, stride, stride, dtype=torch.float64, requires_grad=True)
    logits = network(volumes)
    first = radius + stride  # on the pooling grid
    for position in range(first, first + stride):
        (gradient,) = torch.autograd.grad(logits[0, position].sum(), volumes, retain_graph=True)
        seen = torch.nonzero(gradient.abs().sum(dim=(0, 1, 3, 4)))
        assert len(seen) > 1
        assert position - seen.min() <= radius
        assert seen.max() - position <= radius


def test_the_receptive_radius_is_reached(settings):
    # With positive weights nothing cancels, so every voxel that can matter does.
    network = build(settings).eval().double()
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    radius, stride = receptive_radius(settings), settings.stride
    depth = 2 * (radius + stride) + stride
    flat = torch.ones(1, 1, depth, stride, stride, dtype=torch.float64)
    with torch.no_grad():
        before = network(flat)
        reach = 0
        for position in range(radius + stride, radius + 2 * stride):
            bumped = flat.clone()
            bumped[0, 0, position] = 1e6
            changed = torch.nonzero((network(bumped) != before)[0].any(dim=2).any(dim=1))
            reach = max(reach, int((changed - position).abs().max()))
    assert radius - stride < reach <= radius


def _trained(**settings):
    """A network with running statistics as after training, so that normalisation does something."""
    torch.manual_seed(3)
    network = build(Network(**settings)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network


KINDS = [
    {"block": "plain"},
    {"block": "residual"},
    {"block": "multires"},
    {"architecture": "space-to-depth", "block": "plain", "filter_channel": True},
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_network_gives_the_same_logits_and_leaves_the_first_alone(kind):
    network = _trained(channels=(4, 6, 8), **kind)
    volumes = torch.randn(2, 1 + kind.get("filter_channel", False), 16, 24, 8)
    with torch.inference_mode():
        before = network(volumes)
        copy = folded(network)
        torch.testing.assert_close(copy(volumes), before, atol=1e-5, rtol=0)
        torch.testing.assert_close(network(volumes), before, atol=0, rtol=0)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in copy.modules())
    assert any(isinstance(module, torch.nn.BatchNorm3d) for module in network.modules())


@pytest.mark.parametrize("planes", [2, 6, 8, 48])
@pytest.mark.parametrize("kind", KINDS)
def test_slab_by_slab_the_logits_are_those_of_the_whole_volume(kind, planes):
    network = folded(_trained(channels=(4, 6, 8), **kind))
    volumes = torch.randn(1, 1 + kind.get("filter_channel", False), 48, 16, 24)
    with torch.inference_mode():
        whole = network(volumes)
        slabs = list(stream(network, volumes.split(planes, dim=2)))
    assert whole.std() > 1e-3
    torch.testing.assert_close(torch.cat(slabs, dim=1), whole, atol=1e-5, rtol=0)


def test_in_half_precision_the_logits_are_single_and_nearly_the_same():
    network = _trained(channels=(4, 6), **KINDS[3])
    volumes = torch.randn(1, 2, 16, 16, 16)
    with torch.inference_mode():
        whole = network(volumes)
        slabs = stream(folded(network, dtype=torch.float16), volumes.half().split(8, dim=2))
        half = torch.cat(list(slabs), dim=1)
    assert half.dtype == torch.float32
    assert 0 < (half - whole).abs().max() < 0.03 * whole.std()


def test_of_a_slab_that_is_taken_in_part_only_the_rest_is_kept():
    slabs = iter(torch.arange(24.0).reshape(1, 1, 12, 1, 2).split(4, dim=2))
    kept = []
    taken = [_take(kept, slabs, planes) for planes in (3, 6, 3)]
    assert torch.cat(taken, dim=2).flatten().tolist() == list(range(24))
    slabs = iter([torch.zeros(1, 1, 8, 4, 4)])
    _take(kept, slabs, 6)
    assert [each.untyped_storage().nbytes() for each in kept] == [4 * 2 * 4 * 4]

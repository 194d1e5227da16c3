"""Clicked particles are aligned with their average, and what has its shape fits it, not decoys."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tomopicker import template as module
from tomopicker.features import Features
from tomopicker.preprocess import Normalisation
from tomopicker.template import compare, computing_on, even_rotations, learn_template, side

RADIUS = 6.0
# Blobs at the same distances from the centre, so that one radial average is as the other's.
SHAPE = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 4], [-2, -2, 0]], dtype=float)
OTHER = np.array([[4, 0, 0], [-4, 0, 0], [0, 4, 0], [0, -2, -2]], dtype=float)


def blobs(shape, centres, turns, parts):
    """A volume with a blob at each part of each turned particle, of unit height and sigma 1.2."""
    volume = np.zeros(shape)
    for centre, turn in zip(centres, turns, strict=True):
        for part in centre + turn.apply(parts):
            low = np.maximum(np.floor(part).astype(int) - 5, 0)
            at = tuple(slice(a, b) for a, b in zip(low, low + 11, strict=True))
            axes = np.meshgrid(*(np.arange(s.start, s.stop) for s in at), indexing="ij")
            squared = sum((axis - p) ** 2 for axis, p in zip(axes, part, strict=True))
            view = volume[at]
            cropped = tuple(slice(0, n) for n in view.shape)
            view += np.exp(-squared[cropped] / (2 * 1.2**2))
    return volume


def missing_wedge(volume, degrees):
    """Without what tilts up to some degrees about the y axis do not show."""
    z, _, x = np.meshgrid(*(np.fft.fftfreq(n) for n in volume.shape), indexing="ij")
    shown = np.abs(z) <= np.tan(np.radians(degrees)) * np.abs(x) + 1e-9
    return np.fft.ifftn(np.fft.fftn(volume) * shown).real


FAST = [(600, detail) for _, detail in module._FINE_ROUNDS]


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    """Fewer orientations and decoys: these are small and clear shapes."""
    monkeypatch.setattr(module, "_ORIENTATIONS", 800)
    monkeypatch.setattr(module, "_DECOYS", 800)


def few_rounds(monkeypatch):
    """One start, and one round of either detail."""
    monkeypatch.setattr(module, "_STARTS", 1)
    monkeypatch.setattr(module, "_COARSE_ROUNDS", module._COARSE_ROUNDS[:1])
    monkeypatch.setattr(module, "_FINE_ROUNDS", FAST[:1])


@pytest.fixture(scope="module")
def cell():
    """A noisy volume with two kinds of particles: its features and where they are."""
    rng = np.random.default_rng(1)
    shape = (48, 128, 128)
    grid = np.stack(np.meshgrid([12, 34], range(12, 120, 17), range(12, 120, 17), indexing="ij"))
    places = grid.reshape(3, -1).T + rng.uniform(-0.5, 0.5, size=(98, 3))
    places = places[rng.permutation(len(places))]
    turns = Rotation.random(len(places), random_state=rng)
    mine, others = slice(0, 60), slice(60, None)
    volume = blobs(shape, places[mine], turns[mine], SHAPE)
    volume += blobs(shape, places[others], turns[others], OTHER)
    volume += ndimage.gaussian_filter(rng.normal(size=shape), 0.7) * 0.6
    volume = missing_wedge(volume, 60).astype(np.float32)
    features = Features(data=volume, normalisation=Normalisation.of(volume, source="cell"))
    return features, places[mine], places[others]


@pytest.fixture(scope="module")
def template(cell):
    features, mine, _ = cell
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FINE_ROUNDS", FAST)
        rng = np.random.default_rng([0, 3])
        return learn_template([(features, mine[:40])], radius=RADIUS, rng=rng)


def contrasts(*places, radius):
    return compare(*places, radius=radius).contrasts


def better(ones, others):
    """Chance that one of the first is above one of the others."""
    return float((ones[:, None] > others[None]).mean())


def test_of_two_shapes_with_one_radial_average_the_clicked_one_stands_out(cell, template):
    features, mine, others = cell
    unseen = mine[40:]
    found = [contrasts(features, some, template, radius=RADIUS) for some in (unseen, others)]
    assert better(*found) > 0.9
    assert np.median(found[0]) > 0
    empty = np.array([[23.0, y, 20.5] for y in range(20, 110, 9)])
    assert better(found[0], contrasts(features, empty, template, radius=RADIUS)) > 0.9


def test_a_place_beside_a_particle_moves_to_it_and_has_its_contrast(cell, template):
    features, mine, _ = cell
    unseen = mine[40:]
    aside = np.random.default_rng(0).normal(size=unseen.shape)
    aside *= 1.5 / np.linalg.norm(aside, axis=1, keepdims=True)
    near = compare(features, unseen + aside, template, radius=RADIUS)
    left = np.linalg.norm(aside + near.moves, axis=1)
    assert left.mean() < 0.75 * 1.5
    assert np.linalg.norm(near.moves, axis=1).max() < 3
    there = contrasts(features, unseen, template, radius=RADIUS)
    assert np.median(there - near.contrasts) < 0.02


def test_places_are_compared_alike_in_batches_of_any_size(cell, template, monkeypatch):
    features, mine, others = cell
    places = np.concatenate([mine, others])
    whole = compare(features, places, template, radius=RADIUS)
    monkeypatch.setattr(module, "_AT_ONCE", 40)  # the last one is of 18
    parts = compare(features, places, template, radius=RADIUS)
    np.testing.assert_allclose(parts.contrasts, whole.contrasts, atol=1e-5)
    np.testing.assert_allclose(parts.moves, whole.moves, atol=1e-4)


def test_places_move_to_where_correlations_say_and_not_without_these():
    boxes = module._Boxes(RADIUS)
    centres = np.array([[10.0, 20.4, 30.0]])
    flat = torch.full((1, len(boxes.nearby)), 0.1)
    # But for what the places are not even about a centre between voxels.
    np.testing.assert_allclose(module._moves(centres, flat, boxes), 0, atol=0.1)
    clear = flat.clone()
    clear[0, boxes.nearby.index((0, 1, -2))] = 1.0
    np.testing.assert_allclose(module._moves(centres, clear, boxes), [[0, 0.6, -2]], atol=0.05)


def test_dark_particles_are_told_from_others_as_bright_ones_are(cell, template):
    features, mine, _ = cell
    dark = replace(
        features, data=-features.data, normalisation=Normalisation.of(-features.data, source="dark")
    )
    inverted = replace(template, volume=-template.volume)
    expected = contrasts(features, mine[40:50], template, radius=RADIUS)
    found = contrasts(dark, mine[40:50], inverted, radius=RADIUS)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_template_seen_through_its_centre_is_that_of_the_mirror_image(template):
    boxes = module._Boxes(RADIUS)
    volume = torch.from_numpy(template.volume)
    turns = module._matrices(even_rotations(20))
    # Of a transform, whose amplitudes are the same on both sides.
    wedge = torch.fft.rfftn(torch.rand((boxes.grid,) * 3)).abs()
    own = boxes.turned(volume, turns, wedge)
    torch.testing.assert_close(
        own.flip(1), boxes.turned(volume.flip(0, 1, 2), turns, wedge), atol=1e-5, rtol=0
    )


def test_a_wedge_of_the_grid_is_the_same_in_the_box():
    """The transform of the box has other frequencies than that of the grid, which are as many."""
    boxes = module._Boxes(RADIUS)
    assert (boxes.side, boxes.grid) == (17, 18)
    z, y, x = np.meshgrid(*[np.fft.fftfreq(18)] * 2, np.fft.rfftfreq(18), indexing="ij")
    wedge = (np.abs(z) <= np.abs(x) * np.tan(np.radians(60))) + 0.1 * y
    whole = boxes.whole(torch.from_numpy(wedge.astype(np.float32)))
    z, y, x = np.meshgrid(*[np.arange(-8, 9) / 17] * 3, indexing="ij")
    sign = np.where(x < 0, -1, 1)  # where there is but the other half
    expected = (np.abs(z) <= np.abs(x) * np.tan(np.radians(60))) + 0.1 * sign * y
    assert np.mean(np.abs(whole.numpy() - expected) < 0.005) > 0.98


def test_decoys_are_as_large_as_the_average_and_have_its_spectrum(template):
    boxes = module._Boxes(RADIUS)
    volume = torch.from_numpy(template.volume)
    everything = torch.ones(boxes.grid, boxes.grid, boxes.grid // 2 + 1)
    shells = module._Shells(boxes.side)

    def spectra(templates):
        cubes = boxes.filled(templates / boxes.weights.sqrt().clamp(min=1e-3))
        power = torch.fft.rfftn(cubes, dim=(1, 2, 3)).abs().square()
        return shells.means(power).mean(0)[1:5]  # finer detail is next to nothing in both

    turns = module._matrices(even_rotations(40))
    lumps = boxes.lumps(volume, 40, everything)
    ratio = spectra(lumps) / spectra(boxes.turned(volume, turns, everything))
    assert ((ratio > 0.7) & (ratio < 1.4)).all()
    # No two alike, nor like the average.
    alike = (lumps @ lumps.T).fill_diagonal_(0)
    assert float(alike.max()) < 0.95


def test_the_same_clicks_and_seed_give_the_same_template_and_contrast(cell, monkeypatch):
    few_rounds(monkeypatch)
    features, mine, _ = cell
    one, two = (
        learn_template([(features, mine[:12])], radius=RADIUS, rng=np.random.default_rng(5))
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.volume, two.volume)
    assert one.volume.shape == (side(RADIUS),) * 3
    first, again = (contrasts(features, mine[:9], one, radius=RADIUS) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert ((first >= -1) & (first <= 1)).all()
    # In whichever company a place is asked for.
    np.testing.assert_allclose(
        contrasts(features, mine[4:5], one, radius=RADIUS), first[4:5], atol=1e-5
    )


def likeness(one, other):
    return np.corrcoef(one.volume.ravel(), other.volume.ravel())[0, 1]


def test_the_start_goes_on_that_its_particles_fit_best(cell, template, monkeypatch):
    features, mine, _ = cell
    noise = torch.from_numpy(np.random.default_rng(3).normal(size=template.volume.shape)).float()
    noise *= module._Boxes(RADIUS).ball
    starts = iter([noise, torch.from_numpy(template.volume), noise.flip(0)])
    few_rounds(monkeypatch)
    monkeypatch.setattr(module, "_STARTS", 3)
    monkeypatch.setattr(module, "_of_random_turns", lambda *_: next(starts))
    heard = []
    average = learn_template(
        [(features, mine[:40])],
        radius=RADIUS,
        rng=np.random.default_rng(0),
        progress=heard.append,
    )
    assert next(starts, None) is None
    assert heard == [0, 0.25, 0.5, 0.75]
    assert 0.9 < likeness(average, template) < 1 - 1e-6


def test_an_average_goes_on_from_one_that_is_there(cell, template, monkeypatch):
    features, mine, _ = cell
    monkeypatch.setattr(module, "_FINE_ROUNDS", FAST)
    monkeypatch.setattr(module, "_of_random_turns", None)
    blurred = replace(template, volume=ndimage.gaussian_filter(template.volume, 1.5))
    heard, rng = [], np.random.default_rng(0)
    average = learn_template(
        [(features, mine[:50])], radius=RADIUS, start=blurred, rng=rng, progress=heard.append
    )
    assert len(heard) == len(FAST)
    # In the orientation in which it was, and as sharp as one can be.
    assert likeness(average, template) > max(0.9, likeness(blurred, template) + 0.02)
    # One that goes on from it tries other orientations.
    assert rng.uniform() != np.random.default_rng(0).uniform()


@pytest.mark.parametrize("radius", [3.0, 6.0])
def test_places_are_compared_at_every_shift(radius):
    boxes = module._Boxes(radius)
    generator = torch.Generator().manual_seed(1)
    blocks = 0.5 + torch.randn(5, *(boxes.outer,) * 3, generator=generator)
    found = boxes.shifted(blocks)
    assert found.shape == (5, 19, len(boxes.places))
    for number, shift in enumerate(module._SHIFTS):
        at = [slice(module._MARGIN + by, module._MARGIN + by + boxes.side) for by in shift]
        expected = boxes.normalised(blocks[:, *at])
        torch.testing.assert_close(found[:, number], expected, atol=1e-5, rtol=0)
    assert module._SHIFTS[9] == (0, 0, 0)  # the middle one, where an average starts


@pytest.mark.parametrize("radius", [3.0, 6.0])
def test_places_are_compared_along_axes_at_every_place_nearby(radius):
    boxes = module._Boxes(radius)
    generator = torch.Generator().manual_seed(1)
    blocks = 0.5 + torch.randn(5, *(boxes.outer,) * 3, generator=generator)
    # Without a mean, as templates have none.
    axes = boxes.normalised(torch.randn(4, *(boxes.side,) * 3, generator=generator)).T
    nearby = module._Nearby(boxes, axes, at_once=7)
    found, norms = nearby.roughly(blocks)
    assert found.shape == (5, len(boxes.nearby), 4)
    assert len(boxes.nearby) == {3.0: 7, 6.0: 57}[radius]
    for number, place in enumerate(boxes.nearby):
        at = [slice(module._MARGIN + by, module._MARGIN + by + boxes.side) for by in place]
        expected = boxes.normalised(blocks[:, *at]) @ axes
        torch.testing.assert_close(found[:, number], expected, atol=1e-5, rtol=0)
    # And at some of the places of each.
    some = torch.randint(len(boxes.nearby), (5, 3), generator=generator)
    expected = torch.stack([of[at] for of, at in zip(found, some, strict=True)])
    at_some = nearby.at(blocks, some, norms.gather(1, some))
    torch.testing.assert_close(at_some, expected, atol=1e-5, rtol=0)


def test_tomograms_of_one_tilt_scheme_share_what_the_template_looks_like(cell, monkeypatch):
    few_rounds(monkeypatch)
    features, mine, _ = cell
    rng = np.random.default_rng(4)

    def another(degrees):
        noise = ndimage.gaussian_filter(rng.normal(size=features.shape), 0.7)
        volume = missing_wedge(noise, degrees).astype(np.float32)
        return Features(data=volume, normalisation=Normalisation.of(volume, source="another"))

    alike, other = another(60), another(40)
    shown = []

    def spy(template, boxes, wedge):
        shown.append(wedge)
        return original(template, boxes, wedge)

    original = module._shown
    monkeypatch.setattr(module, "_shown", spy)
    one = learn_template(
        [(features, mine[:12]), (alike, mine[:3])], radius=RADIUS, rng=np.random.default_rng(0)
    )
    assert len(one.wedges) == 1
    both = [contrasts(some, mine[:2], one, radius=RADIUS) for some in (features, alike, features)]
    assert len(shown) == 1
    np.testing.assert_array_equal(shown[0], one.wedges[0])
    np.testing.assert_array_equal(both[0], both[2])
    # Whatever was looked at before, and where no wedge is known, hardly different.
    plain = contrasts(alike, mine[:2], replace(one, wedges=None), radius=RADIUS)
    np.testing.assert_allclose(both[1], plain, atol=0.02)
    # One of another scheme is looked at through its own wedge.
    del shown[:]
    contrasts(other, mine[:2], one, radius=RADIUS)
    assert np.abs(shown[0].numpy() - one.wedges[0]).mean() > 0.04
    two = learn_template(
        [(features, mine[:12]), (other, mine[:3])], radius=RADIUS, rng=np.random.default_rng(0)
    )
    assert len(two.wedges) == 2


def test_no_place_has_no_contrast(cell, template):
    features, _, _ = cell
    near = compare(features, np.empty((0, 3)), template, radius=RADIUS)
    assert len(near.contrasts) == 0
    assert near.moves.shape == (0, 3)


def test_a_place_at_the_face_of_the_tomogram_has_a_contrast(cell, template):
    features, _, _ = cell
    corners = np.array([[0, 0, 0], np.array(features.shape) - 1], dtype=float)
    assert np.isfinite(contrasts(features, corners, template, radius=RADIUS)).all()


def test_the_random_numbers_of_torch_are_left_as_they_were(cell, monkeypatch):
    few_rounds(monkeypatch)
    features, mine, _ = cell
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    template = learn_template([(features, mine[:10])], radius=RADIUS, rng=np.random.default_rng(0))
    contrasts(features, mine[:2], template, radius=RADIUS)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("radius", [3.0, 6.0])
def test_what_is_turned_back_is_as_it_was(radius):
    boxes = module._Boxes(radius)
    rng = np.random.default_rng(2)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, *(boxes.side,) * 3)), (0, 2, 2, 2))
    volumes = torch.as_tensor(smooth.astype(np.float32))[:, None] * boxes.ball
    turns = torch.as_tensor(Rotation.random(2, random_state=rng).as_matrix().astype(np.float32))
    turned = boxes.filled(boxes.sampled(volumes, turns)[:, 0])
    back = boxes.filled(boxes.sampled(turned[:, None], turns.transpose(1, 2))[:, 0])
    for volume, turned_one, as_it_was in zip(volumes[:, 0], turned, back, strict=True):
        same = [
            np.corrcoef(volume.flatten(), one.flatten())[0, 1] for one in (as_it_was, turned_one)
        ]
        assert same[0] > 0.95
        assert same[1] < 0.8


def test_noise_has_no_average_that_is_finer_than_what_was_looked_at(monkeypatch):
    """Of a small particle the transform's corners are beyond the ball."""
    few_rounds(monkeypatch)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(32, 64, 64)).astype(np.float32)
    features = Features(data=noise, normalisation=Normalisation.of(noise, source="noise"))
    places = rng.uniform(8, np.array(noise.shape) - 8, size=(40, 3))
    volume = learn_template([(features, places)], radius=3.0, rng=np.random.default_rng(0)).volume
    size = len(volume)
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*[np.fft.fftfreq(size)] * 3)))
    power = np.abs(np.fft.fftn(volume)) ** 2
    beyond = frequency > (module.MASK_RADII * 3 + 0.5) / size
    assert power[beyond].sum() < 0.2 * power.sum()


def test_orientations_are_even():
    # The nearest of 500 is about as far from everywhere: no orientation is left out.
    some = even_rotations(500)
    anywhere = Rotation.random(200, random_state=0)
    nearest = [np.degrees((one.inv() * some).magnitude().min()) for one in anywhere]
    assert max(nearest) < 45
    assert np.mean(nearest) < 27


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch found no CUDA device")
def test_a_gpu_finds_what_the_cpu_finds(cell, template):
    features, mine, others = cell
    expected = contrasts(features, mine[40:], template, radius=RADIUS)
    with computing_on("cuda"):
        found = contrasts(features, mine[40:], template, radius=RADIUS)
        average = learn_template(
            [(features, mine[:40])], radius=RADIUS, rng=np.random.default_rng(0)
        )
        again = contrasts(features, np.concatenate([mine[40:], others]), average, radius=RADIUS)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert better(again[: len(found)], again[len(found) :]) > 0.9

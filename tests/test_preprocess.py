"""Preprocessing is section 3.1 of the paper, block by block and for every type of voxel."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopicker import preprocess
from tomopicker.errors import InputError
from tomopicker.preprocess import Normalisation, finite


@pytest.fixture
def tomogram():
    rng = np.random.default_rng(5)
    data = rng.normal(20, 4, (30, 20, 25)).astype(np.float32)
    data[3, 3, 3] = 1000  # a gold bead
    return data


def _in_one_go(data, clip_sigma=3.0):
    values = data.astype(np.float64)
    values = np.clip((values - values.mean()) / values.std(), -clip_sigma, clip_sigma)
    return (values - values.mean()) / values.std()


def test_a_volume_worked_by_hand():
    # Nineteen 0 and one 20: mean 1, variance (19 x 1 + 19²) / 20 = 19.
    data = np.zeros((1, 4, 5), dtype=np.float32)
    data[0, 0, 0] = 20
    made = Normalisation.of(data, source="hand")
    assert made.mean == pytest.approx(1)
    assert made.std == pytest.approx(19**0.5)
    # Standardised: -1/sqrt(19) and sqrt(19), the latter clipped at 3.
    low = -1 / 19**0.5
    mean = (19 * low + 3) / 20
    std = ((19 * (low - mean) ** 2 + (3 - mean) ** 2) / 20) ** 0.5
    assert made.clipped_mean == pytest.approx(mean)
    assert made.clipped_std == pytest.approx(std)
    assert made.apply(data)[0, 0, 0] == pytest.approx((3 - mean) / std)
    assert made.apply(data)[0, 3, 4] == pytest.approx((low - mean) / std)


def test_the_result_has_mean_0_and_standard_deviation_1(tomogram):
    result = Normalisation.of(tomogram, source="t").apply(tomogram)
    assert result.dtype == np.float32
    assert result.mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
    assert result.std(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(result, _in_one_go(tomogram), atol=1e-5)


def test_a_gold_bead_does_not_set_the_scale(tomogram):
    with_gold = Normalisation.of(tomogram, source="t").apply(tomogram)
    standardised = (tomogram - tomogram.mean()) / tomogram.std()
    tomogram[3, 3, 3] = 20
    without = Normalisation.of(tomogram, source="t").apply(tomogram)
    rest = np.s_[10:]
    # One bead in 15,000 voxels takes half of the contrast of everything else; clipped, 1 %.
    assert standardised[rest].std() < 0.6 * without[rest].std()
    assert with_gold[rest].std() > 0.99 * without[rest].std()


@pytest.mark.parametrize("slab", [1, 1700, 1 << 22])
def test_the_size_of_the_slabs_does_not_matter(tomogram, slab, monkeypatch):
    monkeypatch.setattr(preprocess, "_SLAB", slab)
    result = Normalisation.of(tomogram, source="t").apply(tomogram)
    np.testing.assert_allclose(result, _in_one_go(tomogram), atol=1e-5)


def test_a_block_by_itself_is_the_same_as_in_the_whole(tomogram):
    made = Normalisation.of(tomogram, source="t")
    block = np.s_[4:9, :, 3:20]
    assert np.array_equal(made.apply(tomogram[block]), made.apply(tomogram)[block])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "float16", ">f4", "f8"])
def test_every_type_of_voxel_gives_the_same_result(dtype):
    values = np.random.default_rng(1).integers(0, 100, (6, 7, 8))
    data = values.astype(dtype)
    result = Normalisation.of(data, source="t").apply(data)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, _in_one_go(values), atol=1e-5)


def test_a_large_offset_does_not_cost_digits():
    values = np.random.default_rng(1).integers(0, 100, (6, 7, 8))
    data = (values + 1_000_000_000).astype(np.int32)  # beyond the whole numbers of float32
    result = Normalisation.of(data, source="t").apply(data)
    np.testing.assert_allclose(result, _in_one_go(values), atol=1e-5)


@given(
    scale=st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
    offset=st.floats(-1e3, 1e3),
    clip_sigma=st.floats(0.5, 5),
)
def test_the_units_of_the_voxels_do_not_matter(scale, offset, clip_sigma):
    data = np.random.default_rng(2).normal(size=(4, 5, 6))
    changed = scale * data + offset
    before = Normalisation.of(data, clip_sigma=clip_sigma, source="t").apply(data)
    after = Normalisation.of(changed, clip_sigma=clip_sigma, source="t").apply(changed)
    np.testing.assert_allclose(after, np.sign(scale) * before, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_become_the_mean_and_change_nothing_else(tomogram, bad):
    # The same values otherwise: the last plane holds only what is left out.
    holed = np.concatenate([tomogram, np.full((1, 20, 25), bad, dtype=np.float32)])
    result = Normalisation.of(holed, source="t").apply(holed)
    assert np.array_equal(result[:-1], Normalisation.of(tomogram, source="t").apply(tomogram))
    assert (result[-1] == 0).all()
    assert finite(holed)[:-1].all()
    assert not finite(holed)[-1].any()


def test_a_volume_without_holes_needs_no_mask(tomogram):
    assert finite(tomogram) is None
    assert finite(tomogram.astype(np.int16)) is None


def test_a_value_beyond_single_precision_is_clipped_like_any_other():
    data = np.arange(60.0).reshape(3, 4, 5)
    made = Normalisation.of(data, source="t")
    data[0, 0, 0] = 1e200
    top = (3 - made.clipped_mean) / made.clipped_std
    assert made.apply(data)[0, 0, 0] == pytest.approx(top)


@pytest.mark.parametrize("value", [0, 7, 0.1, -1e6 / 3])
def test_a_constant_volume_is_refused_by_name(value):
    data = np.full((20, 30, 30), value, dtype=np.float32)
    with pytest.raises(InputError, match=r"^TS_01\.mrc: expected voxels that differ"):
        Normalisation.of(data, source="TS_01.mrc")


def test_one_voxel_a_step_apart_is_not_constant():
    data = np.full((20, 30, 30), 0.1, dtype=np.float32)
    data[4, 4, 4] = np.nextafter(data[4, 4, 4], np.float32(1))
    assert Normalisation.of(data, source="t").std > 0


@pytest.mark.parametrize("data", [np.full((2, 3, 4), np.nan), np.empty((0, 3, 4))])
def test_a_volume_without_a_finite_voxel_is_refused_by_name(data):
    with pytest.raises(InputError, match=r"^TS_01\.mrc: .* no finite voxel"):
        Normalisation.of(data, source="TS_01.mrc")


def test_measuring_a_volume_never_copies_it(monkeypatch):
    monkeypatch.setattr(preprocess, "_SLAB", 1 << 12)
    data = np.random.default_rng(0).integers(0, 99, (64, 64, 64), dtype=np.int8)
    tracemalloc.start()
    made = Normalisation.of(data, source="t")
    measuring = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    made.apply(data)
    applying = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert measuring < data.size
    assert applying < 1.5 * 4 * data.size  # its float32 result, never a float64 copy

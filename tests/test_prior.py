"""The class priors are equations 2, 4 and 8."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopicker.errors import InputError
from tomopicker.prior import class_prior


def test_the_priors_of_a_small_tomogram_worked_by_hand():
    # 10 particles of 7 voxels in 1000, two of which are labelled.
    prior = class_prior(expected_particles=10, ball_voxels=7, labelled_voxels=14, total_voxels=1000)
    assert prior.observed == 14 / 1000
    assert prior.expected == 70 / 1000
    assert prior.unlabelled == pytest.approx(56 / 1000)


def test_the_priors_have_the_size_they_have_in_the_paper():
    # 100 of 2500 particles of radius 12 in a tomogram of 500 x 960 x 1000.
    prior = class_prior(
        expected_particles=2500,
        ball_voxels=7153,
        labelled_voxels=100 * 7153,
        total_voxels=480_000_000,
    )
    assert prior.observed == pytest.approx(7153e2 / 480e6)
    assert prior.expected == pytest.approx(0.0372552, abs=5e-8)
    assert prior.unlabelled == pytest.approx(0.035765)


@given(
    expected=st.integers(2, 10_000),
    ball=st.integers(1, 10_000),
    share=st.floats(0, 1, exclude_max=True),
    slack=st.floats(2, 1000),
)
def test_the_unlabelled_prior_is_the_expected_less_the_observed(expected, ball, share, slack):
    prior = class_prior(
        expected_particles=expected,
        ball_voxels=ball,
        labelled_voxels=int(expected * ball * share),
        total_voxels=int(expected * ball * slack) + 1,
    )
    assert prior.unlabelled == prior.expected - prior.observed
    assert 0 <= prior.observed < prior.expected <= 0.5
    assert prior.unlabelled > 0


@pytest.mark.parametrize("expected", [1, 2])
def test_expecting_no_more_than_what_is_labelled_is_refused_with_the_way_out(expected):
    with pytest.raises(InputError, match="14 voxels labelled: raise --expected"):
        class_prior(
            expected_particles=expected, ball_voxels=7, labelled_voxels=14, total_voxels=1000
        )


def test_expecting_more_than_half_of_the_volume_is_refused():
    with pytest.raises(InputError, match="more than half of the 1000 voxels: lower --expected"):
        class_prior(expected_particles=72, ball_voxels=7, labelled_voxels=14, total_voxels=1000)

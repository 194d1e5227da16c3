"""Candidates are asked for in an order that teaches, and verdicts are kept as they were given."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopicker.errors import InputError
from tomopicker.verdicts import (
    Candidate,
    Pool,
    Verdict,
    counts,
    judge,
    near,
    precision,
    queue,
    queue_across,
    teaching_order,
    uncertainties,
    undo,
)


def candidate(x, *, score=0.0, probability=0.5, picked=True, tomogram="TS_01"):
    return Candidate(
        tomogram=tomogram,
        voxel=(10.0, 10.0, float(x)),
        score=score,
        probability=probability,
        picked=picked,
        model="round 1",
    )


def verdict(one, answer="accept"):
    return Verdict(
        candidate=one, answer=answer, who="ada", when="2026-01-01T12:00:00+00:00", order="teach"
    )


def test_the_uncertain_come_before_the_certain():
    chances = [1.0, 0.5, 0.02, 0.8]
    some = [candidate(100 * i, probability=chance) for i, chance in enumerate(chances)]
    assert [one.probability for one in queue(some, (), radius=5)] == [0.5, 0.8, 0.02, 1.0]


def test_of_equally_uncertain_ones_that_with_more_like_it_comes_first():
    # Nine score about 1, one scores 5; a verdict on one of the nine tells of the others.
    scores = np.array([5.0, *np.linspace(0.9, 1.1, 9)])
    voxels = np.stack([np.zeros(10), np.zeros(10), 200.0 * np.arange(10)], axis=1)
    order = teaching_order(voxels, np.full(10, 0.8), scores, radius=5)
    assert order[0] != 0


def test_the_first_ones_are_not_all_from_one_corner():
    # Twenty alike in one corner, and three a little less uncertain far away.
    voxels = np.zeros((23, 3))
    voxels[:20, 2] = np.arange(20)
    voxels[20:, 0] = (300, 600, 900)
    uncertainty = np.array([1.0] * 20 + [0.9] * 3)
    order = teaching_order(voxels, uncertainty, np.zeros(23), radius=10)
    assert {20, 21, 22} <= set(order[:6].tolist())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 50))
def test_every_candidate_is_asked_for_once(chances, most):
    count = len(chances)
    voxels = np.random.default_rng(0).uniform(0, 100, (count, 3))
    order = teaching_order(voxels, np.array(chances), np.array(chances), radius=5, most=most)
    assert sorted(order.tolist()) == list(range(count))


def test_a_coin_toss_is_the_most_uncertain():
    some = [candidate(0, probability=p) for p in (0.5, 1.0, 0.0)]
    assert uncertainties(some).tolist() == [1.0, 0.0, 0.0]


def test_without_probabilities_those_at_the_cut_off_are_the_most_uncertain():
    some = [
        candidate(9 * i, score=score, probability=None, picked=score > 2)
        for i, score in enumerate((5.0, 4.0, 2.1, 1.9, 0.0))
    ]
    assert set(np.argsort(-uncertainties(some))[:2]) == {2, 3}


def test_what_was_judged_or_clicked_does_not_wait():
    some = [candidate(x) for x in (0, 50, 100)]
    # Another model placed the first particle two voxels beside.
    moved = replace(some[0], voxel=(10.0, 10.0, 2.0), model="round 2")
    waiting = queue(some, (verdict(moved, "reject"),), radius=5, known=[(10.0, 10.0, 99.0)])
    assert waiting == [some[1]]


def test_a_verdict_in_another_tomogram_says_nothing():
    here, there = candidate(0), candidate(0, tomogram="TS_02")
    assert queue([here], (verdict(there),), radius=5) == [here]


def test_what_was_put_off_comes_last():
    some = [candidate(0, probability=0.5), candidate(50, probability=0.9)]
    assert queue(some, (verdict(some[0], "skip"),), radius=5) == [some[1], some[0]]


def test_a_fair_sample_is_of_the_picked_and_keeps_its_order_as_verdicts_come_in():
    some = [candidate(20 * i, picked=i % 3 > 0) for i in range(30)]
    first = queue(some, (), radius=5, order="random")
    assert all(one.picked for one in first)
    assert len(first) == 20
    assert queue(some, (verdict(first[0]),), radius=5, order="random") == first[1:]
    assert first != sorted(first, key=lambda one: one.voxel)


def test_a_second_verdict_takes_the_place_of_the_first_and_undo_takes_the_last_back():
    one, other = candidate(0), candidate(50)
    said = judge((), verdict(one, "accept"))
    said = judge(said, verdict(other, "skip"))
    said = judge(said, verdict(one, "reject"))
    assert counts(said) == {"accept": 0, "reject": 1, "skip": 1}
    assert counts(undo(said)) == {"accept": 0, "reject": 0, "skip": 1}


def test_an_unknown_answer_lists_the_known():
    with pytest.raises(InputError, match="accept, reject, skip"):
        verdict(candidate(0), "perhaps")


def test_nothing_is_near_nothing():
    assert near(np.zeros((2, 3)), [], 5.0).tolist() == [False, False]
    assert near(np.array([[0, 0, 3.0], [0, 0, 3.1]]), [(0, 0, 0)], 3.0).tolist() == [True, False]


def test_precision_of_a_sample_by_hand():
    # Wilson (1927) for 8 of 10: (0.8 + 0.19207) / 1.38415 -+ 0.22652.
    share, low, high = precision(8, 2)
    assert share == 0.8
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert precision(0, 0) == (0.0, 0.0, 1.0)


def pool(*candidates, radius=5.0, known=()):
    return Pool(candidates=candidates, radius=radius, known=known)


def test_across_tomograms_the_uncertain_come_first_wherever_they_are():
    one = [candidate(100 * i, probability=p) for i, p in enumerate((0.99, 0.6))]
    other = [
        candidate(100 * i, probability=p, tomogram="TS_02") for i, p in enumerate((0.5, 0.9, 0.05))
    ]
    asked = queue_across([pool(*one), pool(*other)], ())
    assert [one.probability for one in asked] == [0.5, 0.6, 0.9, 0.05, 0.99]


def test_places_in_two_tomograms_are_not_near_each_other():
    same_place = [candidate(10), candidate(10, tomogram="TS_02")]
    pools = [pool(one) for one in same_place]
    assert queue_across(pools, (verdict(same_place[0]),)) == [same_place[1]]
    # Nor does one that was asked for make the other less worth asking.
    voxels = np.zeros((3, 3))
    voxels[2] = 1.0
    uncertainty, scores = np.array([1.0, 0.9, 0.95]), np.zeros(3)
    order = teaching_order(voxels, uncertainty, scores, radius=5, tomograms=np.array([0, 1, 0]))
    assert order.tolist() == [0, 1, 2]


def test_what_is_known_hides_candidates_within_half_a_radius_of_its_own_tomogram():
    far, close = candidate(14), candidate(14, tomogram="TS_02")
    known = [(10.0, 10.0, 10.0)]
    pools = [pool(far, radius=6.0, known=known), pool(close, radius=9.0, known=known)]
    assert queue_across(pools, ()) == [far]


def test_those_put_off_come_last_in_whichever_tomogram():
    some = [candidate(0, probability=0.5), candidate(0, probability=0.9, tomogram="TS_02")]
    pools = [pool(one) for one in some]
    assert queue_across(pools, (verdict(some[0], "skip"),)) == [some[1], some[0]]

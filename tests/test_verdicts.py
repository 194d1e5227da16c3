"""Candidates are asked for in an order that helps, and verdicts are kept as they were given."""

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
    chances_of,
    counts,
    judge,
    near,
    precision,
    queue,
    queue_across,
    revise,
    undo,
    worth,
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


def best_f1(chances, expected_particles):
    """Expected F1 of the best list, by trying all lengths."""
    hits = np.cumsum(np.sort(chances)[::-1])
    return (2 * hits / (np.arange(1, len(chances) + 1) + expected_particles)).max()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_worth_most_is_what_would_raise_the_expected_f1_most(seed):
    # Against the definition: answer each candidate both ways, and take the mean of the best F1.
    chances = np.random.default_rng(seed).uniform(0.02, 0.98, 300)
    total = chances.sum()
    gains = []
    for row, chance in enumerate(chances):
        yes, no = chances.copy(), chances.copy()
        yes[row], no[row] = 1.0, 0.0
        # The mean over both answers of the expected number is what it was.
        gains.append(chance * best_f1(yes, total) + (1 - chance) * best_f1(no, total))
    assert gains[int(np.argmax(worth(chances)))] >= np.quantile(gains, 0.99)


def test_what_is_certain_is_worth_nothing_and_what_is_at_the_cut_off_most():
    chances = np.linspace(1, 0, 101)
    gains = worth(chances)
    assert gains[0] == gains[-1] == 0
    best = int(gains.argmax())
    assert (np.diff(gains[: best + 1]) >= 0).all()
    assert (np.diff(gains[best:]) <= 0).all()
    # F / 2 of the best list: chances from 1 down to x sum to (1 - x²) / 2 of 100, of 50.5 in all.
    lengths = np.arange(1, 102)
    cut = (2 * np.cumsum(chances) / (lengths + chances.sum())).max() / 2
    assert abs(chances[best] - cut) <= 0.01


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_every_candidate_is_asked_for_once(chances):
    some = [candidate(20 * i, probability=chance) for i, chance in enumerate(chances)]
    asked = queue(some, (), radius=5)
    assert len(asked) == len(some)
    assert set(asked) == set(some)


def test_without_probabilities_those_at_the_cut_off_are_worth_most():
    some = [
        candidate(9 * i, score=score, probability=None, picked=score > 2)
        for i, score in enumerate((5.0, 4.0, 2.1, 1.9, 0.0))
    ]
    assert set(np.argsort(-worth(chances_of(some)))[:2]) == {2, 3}


def ten(picked=6):
    return [
        candidate(20 * i, score=-i, probability=p, picked=i < picked)
        for i, p in enumerate(np.linspace(0.95, 0.05, 10))
    ]


def listed(candidates):
    return sum(one.picked for one in candidates)


def test_many_rejected_lower_the_chances_of_all_and_shorten_the_list():
    some = ten()
    revised = revise(some, [verdict(one, "reject") for one in some[2:6]], automatic=True)
    assert all(a.probability < b.probability for a, b in zip(revised, some, strict=True))
    assert 0 < listed(revised) < 6
    longer = revise(some, [verdict(one, "accept") for one in some[3:9]], automatic=True)
    assert listed(longer) > 6


def test_answers_that_are_as_likely_as_told_change_nothing():
    some = [candidate(20 * i, probability=0.5, picked=i < 4) for i in range(8)]
    said = [
        verdict(one, answer) for one, answer in zip(some, ["accept", "reject"] * 4, strict=True)
    ]
    revised = revise(some, said, automatic=True)
    assert [one.probability for one in revised] == pytest.approx([0.5] * 8, abs=0.01)


def test_a_single_slip_does_not_turn_the_odds():
    some = ten()
    sure = [verdict(one) for one in some[:4]]
    before, after = (
        revise(some, said, automatic=True)[4].probability
        for said in (sure, [*sure, verdict(some[9])])
    )
    assert after - before < 0.15


def test_what_was_put_off_or_said_of_another_model_or_tomogram_says_nothing():
    some = ten()
    said = [
        verdict(some[0], "skip"),
        verdict(replace(some[1], model="round 2"), "reject"),
        verdict(replace(some[2], tomogram="TS_02"), "reject"),
    ]
    assert [one.probability for one in revise(some, said, automatic=True)] == [
        one.probability for one in some
    ]
    untold = [replace(one, probability=None) for one in some]
    assert listed(revise(untold, [verdict(untold[5], "reject")], automatic=True)) == 6


def test_a_list_that_was_asked_for_stays_though_the_chances_change():
    some = ten(picked=3)
    revised = revise(some, [verdict(one, "reject") for one in some[:6]], automatic=False)
    assert [one.picked for one in revised] == [one.picked for one in some]
    assert revised[0].probability < some[0].probability


def test_where_nothing_was_picked_nothing_is_after_a_verdict():
    some = ten(picked=0)
    assert listed(revise(some, [verdict(some[0])], automatic=True)) == 0


def test_a_candidate_is_the_same_one_when_its_chance_has_changed():
    one = candidate(0)
    again = replace(one, probability=0.9, picked=False)
    assert judge((verdict(one, "accept"),), verdict(again, "reject")) == (verdict(one, "reject"),)


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


def test_without_probabilities_those_at_the_end_of_each_list_come_first():
    # The second list ends between scores that lie far down in the first one.
    lists = [
        [
            candidate(9 * i, score=top - i, probability=None, picked=i < 3, tomogram=name)
            for i in range(6)
        ]
        for name, top in (("TS_01", 20.0), ("TS_02", 2.0))
    ]
    asked = queue_across([pool(*some) for some in lists], ())
    assert {one.score for one in asked[:4]} == {18.0, 17.0, 0.0, -1.0}
    assert queue_across([pool(), pool(*lists[0])], ()) == queue(lists[0], (), radius=5)


def test_places_in_two_tomograms_are_not_near_each_other():
    same_place = [candidate(10), candidate(10, tomogram="TS_02")]
    pools = [pool(one) for one in same_place]
    assert queue_across(pools, (verdict(same_place[0]),)) == [same_place[1]]


def test_what_is_known_hides_candidates_within_half_a_radius_of_its_own_tomogram():
    far, close = candidate(14), candidate(14, tomogram="TS_02")
    known = [(10.0, 10.0, 10.0)]
    pools = [pool(far, radius=6.0, known=known), pool(close, radius=9.0, known=known)]
    assert queue_across(pools, ()) == [far]


def test_those_put_off_come_last_in_whichever_tomogram():
    some = [candidate(0, probability=0.5), candidate(0, probability=0.9, tomogram="TS_02")]
    pools = [pool(one) for one in some]
    assert queue_across(pools, (verdict(some[0], "skip"),)) == [some[1], some[0]]

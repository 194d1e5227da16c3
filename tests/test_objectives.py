"""Every objective gives the number its equation gives by hand, and always a finite gradient.

The batch most tests share has the logits ln 3, 0 and -ln 3, whose sigmoids are 3/4, 1/2 and 1/4:

    voxel      label        logit   L(f, 1)    L(f, 0)
    1          positive     ln 3    ln(4/3)    ln 4
    2          unlabelled   0                  ln 2
    3          unlabelled  -ln 3               ln(4/3)
    4          ignored      100

so R_P⁺ = ln(4/3), R_P⁻ = ln 4, R_U⁻ = (ln 2 + ln(4/3)) / 2 = ln(8/3) / 2, |P| = 1, N = 3.
"""

from math import exp, log

import pytest
import torch

from tomopicker.config import Objective
from tomopicker.labels import IGNORED, NEGATIVE, POSITIVE, UNLABELLED
from tomopicker.objectives import OBJECTIVES, balanced_pu, kl, objective, pn, pu
from tomopicker.prior import Prior

_PRIOR = Prior(observed=0.2, expected=0.3, unlabelled=0.25)


def _batch():
    logits = torch.tensor([log(3), 0.0, -log(3), 100.0], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([POSITIVE, UNLABELLED, UNLABELLED, IGNORED], dtype=torch.uint8)
    return logits, labels


def _gradient(risk, logits):
    return torch.autograd.grad(risk.loss, logits)[0].tolist()


def test_pn_is_equation_1():
    logits, labels = _batch()
    risk = pn(logits, labels, _PRIOR, gamma=6.0)  # of the batch: 6 x 1/3 = 2
    assert risk.positive.item() == pytest.approx(0.2 * 2 * log(4 / 3))
    assert risk.unlabelled.item() == pytest.approx(0.8 * log(8 / 3) / 2)
    assert risk.loss.item() == pytest.approx(0.2 * 2 * log(4 / 3) + 0.8 * log(8 / 3) / 2)
    assert not risk.corrected
    # d L(f, 1) / ds = sigmoid - 1 and d L(f, 0) / ds = sigmoid.
    assert _gradient(risk, logits) == pytest.approx([0.4 * -0.25, 0.8 * 0.25, 0.8 * 0.125, 0])


def test_gamma_of_a_batch_is_ten_times_its_fraction_of_positives_unless_told():
    logits, labels = _batch()
    assert pn(logits, labels, _PRIOR).positive.item() == pytest.approx(0.2 * 10 / 3 * log(4 / 3))


def test_pu_is_equation_5_while_the_negatives_risk_is_positive():
    logits, labels = _batch()
    risk = pu(logits, labels, _PRIOR, gamma=3.0)  # of the batch: 1
    negatives = log(8 / 3) / 2 - 0.3 * log(4)  # 0.0745
    assert not risk.corrected
    assert risk.unlabelled.item() == pytest.approx(negatives)
    assert risk.value.item() == pytest.approx(0.3 * log(4 / 3) + negatives)
    assert risk.loss.item() == pytest.approx(0.3 * log(4 / 3) + negatives)
    # Of the labelled voxel: 0.3 (sigmoid - 1) - 0.3 sigmoid.
    assert _gradient(risk, logits) == pytest.approx([-0.3, 0.25, 0.125, 0])


def test_pu_backpropagates_only_the_negated_bracket_when_it_is_below_zero():
    logits, labels = _batch()
    risk = pu(logits, labels, _PRIOR, gamma=6.0)  # of the batch: 2, so the weight is 0.6
    negatives = log(8 / 3) / 2 - 0.6 * log(4)  # -0.341
    assert risk.corrected
    assert risk.loss.item() == pytest.approx(-negatives)
    assert risk.value.item() == pytest.approx(0.6 * log(4 / 3) + negatives)
    # Of the labelled voxel: 0.6 sigmoid; of the unlabelled ones: -sigmoid / 2.
    assert _gradient(risk, logits) == pytest.approx([0.6 * 0.75, -0.25, -0.125, 0])


def test_kl_is_equation_6_in_both_directions():
    logits, labels = _batch()
    # The mean over U is (1/2 + 1/4) / 2 = 0.375, the prior 0.25.
    prior_to_mean = 0.25 * log(0.25 / 0.375) + 0.75 * log(0.75 / 0.625)
    mean_to_prior = 0.375 * log(0.375 / 0.25) + 0.625 * log(0.625 / 0.75)
    risk = kl(logits, labels, _PRIOR, gamma=3.0, weight=5.0)
    assert risk.positive.item() == pytest.approx(log(4 / 3))
    assert risk.loss.item() == pytest.approx(log(4 / 3) + 5 * prior_to_mean)
    # d KL / d mean = (1 - 0.25) / (1 - 0.375) - 0.25 / 0.375; d mean / ds = p (1 - p) / 2.
    slope = 5 * (0.75 / 0.625 - 0.25 / 0.375)
    assert _gradient(risk, logits) == pytest.approx([-0.25, slope / 8, slope * 3 / 32, 0])

    risk = kl(logits, labels, _PRIOR, gamma=3.0, weight=5.0, direction="mean-to-prior")
    assert risk.loss.item() == pytest.approx(log(4 / 3) + 5 * mean_to_prior)
    slope = 5 * (log(0.375 / 0.25) - log(0.625 / 0.75))
    assert _gradient(risk, logits) == pytest.approx([-0.25, slope / 8, slope * 3 / 32, 0])


@pytest.mark.parametrize("direction", ["prior-to-mean", "mean-to-prior"])
def test_kl_rests_where_the_mean_score_is_the_prior(direction):
    logits, labels = _batch()
    met = Prior(observed=0.2, expected=0.575, unlabelled=0.375)
    risk = kl(logits, labels, met, direction=direction)
    assert risk.unlabelled.item() == pytest.approx(0, abs=1e-12)
    assert _gradient(risk, logits)[1:] == pytest.approx([0, 0, 0], abs=1e-12)


def test_kl_needs_particles_among_the_unlabelled_voxels():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 0.0; use pn"):
        kl(*_batch(), Prior(observed=0.2, expected=0.2, unlabelled=0.0))


def test_balanced_pu_weighs_both_classes_by_a_half():
    logits, labels = _batch()
    risk = balanced_pu(logits, labels, _PRIOR)
    negatives = (log(8 / 3) / 2 - 0.25 * log(4)) / 1.5
    assert risk.loss.item() == pytest.approx(log(4 / 3) / 2 + negatives)
    assert not risk.corrected
    # Of the labelled voxel: (sigmoid - 1) / 2 - 0.25 sigmoid / 1.5.
    assert _gradient(risk, logits) == pytest.approx([-0.25, 0.5 / 3, 0.25 / 3, 0])


def test_balanced_pu_has_the_sign_branch_too():
    logits, labels = _batch()
    crowded = Prior(observed=0.1, expected=0.6, unlabelled=0.5)
    risk = balanced_pu(logits, labels, crowded)
    negatives = log(8 / 3) / 2 - 0.5 * log(4)  # -0.203, divided by 2 (1 - 0.5)
    assert risk.corrected
    assert risk.loss.item() == pytest.approx(-negatives)
    assert risk.value.item() == pytest.approx(log(4 / 3) / 2 + negatives)
    assert _gradient(risk, logits) == pytest.approx([0.5 * 0.75, -0.25, -0.125, 0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_positives_only_the_unlabelled_part_is_left(name):
    logits, labels = _batch()
    labels[0] = IGNORED
    risk = objective(Objective(name=name))(logits, labels, _PRIOR)
    expected = {
        "pn": 0.8 * log(8 / 3) / 2,
        "pu": log(8 / 3) / 2,
        "kl": 10 * (0.25 * log(0.25 / 0.375) + 0.75 * log(0.75 / 0.625)),
        "balanced-pu": log(8 / 3) / 2 / 1.5,
    }
    assert risk.positive.item() == 0
    assert risk.loss.item() == pytest.approx(expected[name])
    assert _gradient(risk, logits)[0] == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_unlabelled_voxels_the_labelled_ones_are_still_pushed_up(name):
    logits, labels = _batch()
    labels[1:] = IGNORED
    risk = objective(Objective(name=name))(logits, labels, _PRIOR)
    # |P| = N = 1, so gamma of the batch is 10.
    expected = {"pn": 0.2 * 10, "pu": 0.3 * 10, "kl": 10, "balanced-pu": 0.5}
    assert risk.loss.item() == pytest.approx(expected[name] * log(4 / 3))
    assert _gradient(risk, logits) == pytest.approx([-0.25 * expected[name], 0, 0, 0])


@pytest.mark.parametrize("direction", ["prior-to-mean", "mean-to-prior"])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, -1e4])
@pytest.mark.parametrize(
    "labels",
    [
        [POSITIVE, UNLABELLED, UNLABELLED, IGNORED],
        [UNLABELLED] * 4,
        [POSITIVE] * 4,
        [IGNORED] * 4,
    ],
    ids=["mixed", "no positive", "all positive", "all ignored"],
)
def test_loss_and_gradient_are_always_finite(name, direction, labels, scale):
    logits = torch.tensor([scale, -scale, scale, scale], requires_grad=True)
    settings = Objective(name=name, kl_direction=direction)
    risk = objective(settings)(logits, torch.tensor(labels, dtype=torch.uint8), _PRIOR)
    assert torch.isfinite(torch.stack([risk.loss, risk.value])).all()
    gradient = torch.tensor(_gradient(risk, logits))
    assert torch.isfinite(gradient).all()
    assert (gradient[torch.tensor(labels) == IGNORED] == 0).all()


def test_kl_still_pulls_scores_up_where_all_of_them_are_lost():
    logits = torch.full((5,), -1e4, dtype=torch.float64, requires_grad=True)
    risk = kl(logits, torch.zeros(5, dtype=torch.uint8), _PRIOR, weight=1.0)
    # -0.25 d log p / ds = -0.25, shared by five voxels.
    assert _gradient(risk, logits) == pytest.approx([-0.05] * 5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_shape_of_a_batch_and_the_order_of_its_voxels_do_not_matter(name):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 2, (2, 3, 4, 5), generator=generator)
    order = torch.randperm(120, generator=generator)
    evaluate = objective(Objective(name=name))
    shuffled = evaluate(logits.flatten()[order], labels.flatten()[order], _PRIOR)
    assert evaluate(logits, labels, _PRIOR).loss.item() == pytest.approx(shuffled.loss.item())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_half_precision_logits_are_summed_in_single_precision(name):
    labels = torch.zeros(100_000, dtype=torch.uint8)
    labels[:1000] = POSITIVE
    logits = torch.full((100_000,), -1.0)
    evaluate = objective(Objective(name=name))
    single = evaluate(logits, labels, _PRIOR).loss.item()
    assert evaluate(logits.bfloat16(), labels, _PRIOR).loss.item() == pytest.approx(single)


def test_logits_and_labels_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3, 2\)"):
        pn(torch.zeros(2, 3), torch.zeros(3, 2), _PRIOR)


def test_the_settings_reach_the_objective():
    logits, labels = _batch()
    settings = Objective(name="kl", gamma=3.0, kl_weight=5.0, kl_direction="mean-to-prior")
    direct = kl(logits, labels, _PRIOR, gamma=3.0, weight=5.0, direction="mean-to-prior")
    assert objective(settings)(logits, labels, _PRIOR).loss == direct.loss
    settings = Objective(name="pu", gamma=6.0)
    assert objective(settings)(logits, labels, _PRIOR).corrected


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rejected_voxels_add_their_mean_loss_as_negatives_and_nothing_else(name):
    logits, labels = _batch()
    without = objective(Objective(name=name))(logits, labels, _PRIOR)
    labels[3] = NEGATIVE  # which was ignored
    risk = objective(Objective(name=name, rejected=0.5))(logits, labels, _PRIOR)
    added = 0.5 * log(1 + exp(logits[3].item()))
    assert risk.loss.item() == pytest.approx(without.loss.item() + added)
    assert risk.value.item() == pytest.approx(without.value.item() + added)
    slope = 0.5 / (1 + exp(-logits[3].item()))
    assert _gradient(risk, logits)[3] == pytest.approx(slope)

"""What training minimises: PN, PU and KL, and a balanced PU (paper 3.2, equations 1 and 3 to 7).

Each objective is a function that owns nothing: logits, labels and priors in, a `Risk` out.

Means run over the voxels of one batch. L(f(x), 1) is softplus(-s) of a logit s and L(f(x), 0) is
softplus(s), equation 3. The paper scales the means over P by γ = 10 |P| / bs (section 3.3); as in
its authors' runs, |P| are the positive voxels of the batch and bs all its counted voxels, so that
γ of a batch is ``gamma`` times its fraction of positive voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from tomopicker.labels import NEGATIVE, POSITIVE, UNLABELLED

if TYPE_CHECKING:
    from tomopicker.config import Objective, ObjectiveName
    from tomopicker.prior import Prior


@dataclass(frozen=True, kw_only=True)
class Risk:
    """One batch's objective; every member is a scalar tensor on the device of the logits."""

    loss: Tensor
    """To be backpropagated."""
    value: Tensor
    """The objective itself, ``positive + unlabelled``, detached; not `loss` when `corrected`."""
    positive: Tensor
    """Weighted part that asks the labelled voxels to be positive, detached."""
    unlabelled: Tensor
    """Weighted part that looks at the unlabelled voxels, detached."""
    corrected: Tensor
    """Whether the estimated risk of the negatives was below 0, so that `loss` raises it."""


RiskFunction: TypeAlias = "Callable[[Tensor, Tensor, Prior], Risk]"


def pn(logits: Tensor, labels: Tensor, prior: Prior, *, gamma: float = 10.0) -> Risk:
    """Take every unlabelled voxel for a negative one (equation 1, with π of equation 2).

    π γ R_P⁺ + (1 - π) R_U⁻

    Parameters
    ----------
    logits
        Any shape.
    labels
        Of the same shape, integers: `labels.POSITIVE`, `labels.UNLABELLED`, or
        `labels.IGNORED`, which counts nowhere, as `labels.NEGATIVE` does but in `objective`.
    prior
        Of the whole training data, not of the batch.
    gamma
        c of γ = c |P| / N.

    Returns
    -------
    Risk
        A term without voxels in the batch is 0, and its gradient too.
    """
    batch = _Batch.of(logits, labels)
    positive = prior.observed * batch.scale(gamma) * batch.positive_as_positive()
    unlabelled = (1 - prior.observed) * batch.unlabelled_as_negative()
    return _sum(positive, unlabelled)


def pu(logits: Tensor, labels: Tensor, prior: Prior, *, gamma: float = 10.0) -> Risk:
    """Estimate the negatives' risk without negatives, and keep it from going below 0 (equation 5).

    π' γ R_P⁺ + (R_U⁻ - π' γ R_P⁻); when the bracket is negative, training descends along its
    negative alone. Parameters and result are those of `pn`.

    Notes
    -----
    A batch without unlabelled voxels says nothing about negatives: its bracket is 0. Taken
    literally it would be negative, and labelled voxels would be pushed to be negative.
    """
    batch = _Batch.of(logits, labels)
    weight = prior.expected * batch.scale(gamma)
    return _non_negative(
        weight * batch.positive_as_positive(),
        batch.estimated_negative(weight),
    )


def kl(
    logits: Tensor,
    labels: Tensor,
    prior: Prior,
    *,
    gamma: float = 10.0,
    weight: float = 10.0,
    direction: Literal["prior-to-mean", "mean-to-prior"] = "prior-to-mean",
) -> Risk:
    """Fit the labelled voxels while the mean score over U meets its prior (equations 6 and 7).

    γ R_P⁺ + λ KL between two yes-or-no distributions, π'' and p̂ = E_U[sigmoid(s)], both terms.
    Parameters and result are those of `pn`, and:

    Parameters
    ----------
    weight
        λ.
    direction
        KL(π'' ‖ p̂), which the authors computed, or KL(p̂ ‖ π''), which equation 6 prints. Where
        all scores are low the latter hardly has a gradient.

    Raises
    ------
    ValueError
        When π'' is not between 0 and 1.
    """
    if not 0 < prior.unlabelled < 1:
        raise ValueError(
            f"kl needs a prior of the unlabelled voxels between 0 and 1, got {prior.unlabelled};"
            " use pn when every particle is labelled"
        )
    batch = _Batch.of(logits, labels)
    log_yes, log_no = batch.log_mean_score(), batch.log_mean_score(negative=True)
    prior_yes, prior_no = prior.unlabelled, 1 - prior.unlabelled
    if direction == "prior-to-mean":
        divergence = prior_yes * (math.log(prior_yes) - log_yes)
        divergence = divergence + prior_no * (math.log(prior_no) - log_no)
    else:
        divergence = log_yes.exp() * (log_yes - math.log(prior_yes))
        divergence = divergence + log_no.exp() * (log_no - math.log(prior_no))
    return _sum(
        batch.scale(gamma) * batch.positive_as_positive(),
        weight * divergence * batch.has_unlabelled(),
    )


def balanced_pu(logits: Tensor, labels: Tensor, prior: Prior) -> Risk:
    """Weigh the two classes alike in spite of few positives (Su et al., IJCAI 2021).

    R_P⁺ / 2 + (R_U⁻ - π R_P⁻) / (2 (1 - π)), with the sign branch of `pu` and without γ.
    π is π'' here because U does not contain the labelled voxels. Parameters and result are those
    of `pn`.
    """
    batch = _Batch.of(logits, labels)
    return _non_negative(
        batch.positive_as_positive() / 2,
        batch.estimated_negative(prior.unlabelled) / (2 * (1 - prior.unlabelled)),
    )


OBJECTIVES: Mapping[ObjectiveName, Callable[[Objective], RiskFunction]] = {
    "pn": lambda settings: partial(pn, gamma=settings.gamma),
    "pu": lambda settings: partial(pu, gamma=settings.gamma),
    "kl": lambda settings: partial(
        kl, gamma=settings.gamma, weight=settings.kl_weight, direction=settings.kl_direction
    ),
    "balanced-pu": lambda settings: balanced_pu,
}
"""Every objective by name, as a function of its settings."""


def objective(settings: Objective) -> RiskFunction:
    """Give the objective that the settings name, with their weights.

    Where voxels are known to be negative, because a person rejected what is there, it adds
    ``rejected`` R_N⁻, their mean loss, whatever the objective estimates of the others.
    """
    estimate = OBJECTIVES[settings.name](settings)

    def compute(logits: Tensor, labels: Tensor, prior: Prior) -> Risk:
        risk = estimate(logits, labels, prior)
        losses = F.softplus(_Batch.of(logits, labels).logits)
        known = settings.rejected * _mean(losses, labels.flatten() == NEGATIVE)
        return replace(risk, loss=risk.loss + known, value=risk.value + known.detach())

    return compute


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The logits of a batch, flat, and which of them are in P and in U, each ``(n,)``."""

    logits: Tensor
    in_positive: Tensor
    in_unlabelled: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> _Batch:
        if logits.shape != labels.shape:
            raise ValueError(
                f"logits and labels must have one shape,"
                f" got {tuple(logits.shape)} and {tuple(labels.shape)}"
            )
        # A half-precision sum over a million voxels would be useless.
        logits = logits.flatten().to(torch.promote_types(logits.dtype, torch.float32))
        labels = labels.flatten()
        return cls(
            logits=logits,
            in_positive=labels == POSITIVE,
            in_unlabelled=labels == UNLABELLED,
        )

    def scale(self, gamma: float) -> Tensor:
        """Give γ = gamma |P| / N."""
        positives = self.in_positive.sum()
        counted = positives + self.in_unlabelled.sum()
        return gamma * positives / counted.clamp(min=1)

    def positive_as_positive(self) -> Tensor:
        """Give R_P⁺."""
        return _mean(F.softplus(-self.logits), self.in_positive)

    def unlabelled_as_negative(self) -> Tensor:
        """Give R_U⁻."""
        return _mean(F.softplus(self.logits), self.in_unlabelled)

    def estimated_negative(self, weight: Tensor | float) -> Tensor:
        """Give R_U⁻ - weight R_P⁻, or 0 without unlabelled voxels."""
        positive_as_negative = _mean(F.softplus(self.logits), self.in_positive)
        estimate = self.unlabelled_as_negative() - weight * positive_as_negative
        return estimate * self.has_unlabelled()

    def has_unlabelled(self) -> Tensor:
        """Give 1 or 0, so that a term can be switched off without waiting for the device."""
        return self.in_unlabelled.any().to(self.logits.dtype)

    def log_mean_score(self, *, negative: bool = False) -> Tensor:
        """Give log p̂, or log(1 - p̂), exactly where p̂ itself would be 0 or 1."""
        scores = F.logsigmoid(-self.logits if negative else self.logits)
        # Not -inf: a batch without unlabelled voxels would have NaN gradients.
        scores = torch.where(self.in_unlabelled, scores, -1e30)
        count = self.in_unlabelled.sum().clamp(min=1)
        return torch.logsumexp(scores, dim=0) - count.to(scores.dtype).log()


def _mean(losses: Tensor, chosen: Tensor) -> Tensor:
    """Average the chosen losses; 0 when there are none."""
    # No indexing with a mask: on a GPU it would wait for the count.
    return torch.where(chosen, losses, 0).sum() / chosen.sum().clamp(min=1)


def _sum(positive: Tensor, unlabelled: Tensor) -> Risk:
    loss = positive + unlabelled
    return Risk(
        loss=loss,
        value=loss.detach(),
        positive=positive.detach(),
        unlabelled=unlabelled.detach(),
        corrected=torch.zeros_like(loss, dtype=torch.bool),
    )


def _non_negative(positive: Tensor, negative: Tensor) -> Risk:
    """Join the two parts of a PU risk, with the sign branch of Kiryo et al. (2017)."""
    corrected = negative.detach() < 0
    return Risk(
        loss=torch.where(corrected, -negative, positive + negative),
        value=(positive + negative).detach(),
        positive=positive.detach(),
        unlabelled=negative.detach(),
        corrected=corrected,
    )

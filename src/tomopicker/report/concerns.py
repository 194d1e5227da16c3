"""What the numbers of a tomogram's picks give reason to doubt, in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import KDTree
from scipy.stats import binom, mannwhitneyu

from tomopicker.calibrate import MATCH_RADII, Count

if TYPE_CHECKING:
    from tomopicker.io.record import Record
    from tomopicker.types import Floats, Shape

_FEW = 10
"""Picks below which shares say little."""

_RARE = 1e-4
"""Chance below which a share is not taken for luck."""

_UNLIKE = 0.18
"""Share of the peaks that score unlike training. Another tomogram of the same kind has about 0.05,
one with half or twice as many particles 0.1 to 0.17, one with none or four times as many 0.2 to
0.4 (of simulated scores)."""

_EMPTIER = 0.7
"""Share of pairs of a random place and a pick in which the random place shows more around it."""

_EDGE_RADII = 1.5


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured at the picks of one tomogram."""

    record: Record
    voxels: Floats
    """(n, 3) picks, ``z y x``."""
    radius: float
    """Of a particle, voxels."""
    exclusion: float
    """Least distance of two picks, voxels."""
    margin: float
    """Least distance of a pick from the faces, voxels."""
    scores: Floats
    """(n,) of the picks, as the network gave them."""
    probabilities: Floats | None
    """(n,) of the picks."""
    contrasts: Floats
    """Of the picks: density less that around."""
    random_contrasts: Floats
    """The same of random places."""
    textures: Floats
    """How much there is to see around the picks, or some of them."""
    random_textures: Floats
    """The same of random places."""
    trained_scores: Floats
    """(m,) of the particles that the model was calibrated by; empty where unknown."""
    trained_contrast: float | None
    """Of the clicked particles in training, whose sign alone counts; None where unknown."""
    clicks: Floats | None = None
    """(k, 3) clicked particles in this tomogram, where it is known."""
    listed: int | None = None
    """Picks in the list as it is now; None where it was not looked at."""

    @property
    def shape(self) -> Shape:
        """Of the tomogram."""
        return self.record.shape

    @property
    def estimated(self) -> Count | None:
        """Number of particles in the tomogram; None where it cannot be estimated."""
        known = self.record.estimated
        if known is None:
            return None
        return Count(estimate=known.estimate, low=known.low, high=known.high)

    @property
    def neighbours(self) -> Floats:
        """(n,) distance of each pick to the nearest other, ångström; empty for a single one."""
        if len(self.voxels) < 2:
            return np.empty(0)
        distances: Floats = KDTree(self.voxels).query(self.voxels, k=2)[0][:, 1]
        return distances * self.record.voxel_size

    @property
    def false_share(self) -> float | None:
        """Expected share of false picks in the list; None where it cannot be estimated."""
        if self.probabilities is None or not len(self.probabilities):
            return None
        return float(1 - self.probabilities.mean())

    @property
    def contrast(self) -> float:
        """Density at the picks less that around them, in standard errors of random places."""
        own, other = _known(self.contrasts), _known(self.random_contrasts)
        if not len(own) or len(other) < 2 or not other.std() > 0:
            return 0.0
        return float((own.mean() - other.mean()) / (other.std() / math.sqrt(len(own))))

    @property
    def clicks_found(self) -> int | None:
        """Clicked particles that are in the list."""
        if self.clicks is None:
            return None
        if not len(self.voxels):
            return 0
        nearest = KDTree(self.voxels).query(self.clicks)[0]
        return int((nearest <= MATCH_RADII * self.radius).sum())


def concerns(findings: Findings) -> list[str]:
    """List what a careful person would want to look at, the gravest first; nothing if all is well.

    Each is what was seen, and what it may mean. Shares are compared with what random places would
    give, and are left alone where there are fewer than ten picks.
    """
    if not len(findings.voxels):
        return [
            "There are no picks. Pick again with --count 100 and look at the best ones; if they "
            "are not the particle, check the voxel size and whether the contrast is inverted."
        ]
    found: list[str | None] = [check(findings) for check in (_changed, _inverted, _low_scores)]
    if len(findings.voxels) < _FEW:
        found.append(
            f"Very few picks: {len(findings.voxels)}. Look at each of them, and at those just "
            "below the cut-off."
        )
    else:
        checks = (_no_contrast, _flat, _layer, _edges, _close)
        found += [check(findings) for check in checks]
    found += [check(findings) for check in (_missed_clicks, _uncertain, _unlike, _uncalibrated)]
    return [one for one in found if one is not None]


def percent(share: float) -> str:
    """Write a share for people.

    >>> percent(0.046)
    '5 %'
    """
    return f"{100 * share:.0f} %"


def _changed(findings: Findings) -> str | None:
    if findings.listed in (None, findings.record.picks):
        return None
    return (
        f"The list holds {findings.listed} picks, but {findings.record.picks} were made: it was "
        "changed afterwards. This page shows what was made."
    )


def _inverted(findings: Findings) -> str | None:
    bright = findings.contrast > 4
    trained = findings.trained_contrast
    if trained is None and bright:
        return (
            "The picks are brighter than their surroundings. If particles are dark in this "
            "tomogram, these are something else."
        )
    if trained is None or abs(findings.contrast) <= 4 or (trained > 0) == bright:
        return None
    seen, learned = ("brighter", "darker") if bright else ("darker", "brighter")
    return (
        f"The picks are {seen} than their surroundings, but the clicked particles were {learned}. "
        "The contrast of this tomogram may be inverted: multiply it by -1 and pick again."
    )


def _low_scores(findings: Findings) -> str | None:
    # The cut-off follows each tomogram's own scores, which is right for a noisier one. But in noise
    # alone there is also something that scores best, and looks as what was looked for.
    if len(findings.trained_scores) < _FEW:
        return None
    usual = float(np.percentile(findings.trained_scores, 10))
    middle = float(np.median(findings.scores))
    if middle >= usual:
        return None
    return (
        f"Half of the picks score {middle:.1f} or less, but nine in ten of the clicked particles "
        f"scored above {usual:.1f} in training. Either the list is long, or this tomogram is much "
        "noisier, has no such particles, or its contrast is inverted. What noise gives looks like "
        "the particle in the mean, too: look for the picks in the slices."
    )


def _no_contrast(findings: Findings) -> str | None:
    if abs(findings.contrast) > 4:
        return None
    return (
        "The picks are on average neither darker nor brighter than their surroundings, as random "
        "places would be. Check the voxel size, and that this tomogram holds the particle."
    )


def _flat(findings: Findings) -> str | None:
    own, other = _known(findings.textures), _known(findings.random_textures)
    if len(own) < _FEW or len(other) < _FEW:
        return None
    # Where half of the volume is ice, picks in ice alone come to 0.75; picks anywhere to 0.5.
    test = mannwhitneyu(other, own, alternative="greater")
    if test.statistic < _EMPTIER * len(own) * len(other) or test.pvalue > _RARE:
        return None
    return (
        "There is less to see around the picks than around random places: they may be in the ice "
        "outside of the cell, or in its emptiest parts. Look at them in the slices."
    )


def _layer(findings: Findings) -> str | None:
    z = np.sort(findings.voxels[:, 0])
    most = math.ceil(0.8 * len(z))
    thickness = float((z[most - 1 :] - z[: len(z) - most + 1]).min())
    depth = findings.shape[0]
    if thickness >= 0.15 * depth:
        return None
    return (
        f"80 % of the picks are within {thickness:.0f} of the {depth} slices. That is right for a "
        "thin sample; otherwise look for a layer, such as the surface of the ice or a membrane."
    )


def _edges(findings: Findings) -> str | None:
    size = np.array(findings.shape)
    distance = np.minimum(findings.voxels, size - 1 - findings.voxels).min(axis=1)
    near = int((distance < _EDGE_RADII * findings.radius).sum())
    possible = np.maximum(size - 2 * findings.margin, 1)
    inner = np.maximum(size - 2 * _EDGE_RADII * findings.radius, 0)
    expected = 1 - float(np.prod(np.minimum(inner / possible, 1)))
    total = len(findings.voxels)
    if near < 2 * expected * total or binom.sf(near - 1, total, expected) > _RARE:
        return None
    return (
        f"{percent(near / total)} of the picks are within 1.5 radii of the volume's faces, where "
        f"{percent(expected)} would be by chance. Reconstructions have artefacts there."
    )


def _close(findings: Findings) -> str | None:
    reach = 1.15 * findings.exclusion * findings.record.voxel_size
    near = int((findings.neighbours <= reach).sum())
    if near < 0.2 * len(findings.voxels):
        return None
    return (
        f"{percent(near / len(findings.voxels))} of the picks are about as near to another one as "
        "is allowed. One particle may have been picked twice: the radius may be too small, or "
        "large dark things such as membranes and ice crystals were picked."
    )


def _missed_clicks(findings: Findings) -> str | None:
    if findings.clicks is None or findings.clicks_found is None or not len(findings.clicks):
        return None
    if findings.clicks_found >= 0.7 * len(findings.clicks):
        return None
    return (
        f"Of the {len(findings.clicks)} clicked particles {findings.clicks_found} are in the list. "
        "A longer list would hold more of them; or some clicks are not on particles."
    )


def _uncertain(findings: Findings) -> str | None:
    estimated, share = findings.record.estimated, findings.false_share
    if estimated is not None and estimated.high > 4 * max(estimated.low, 1e-9):
        return (
            f"The number of particles is hardly known: {estimated.low:.0f} to "
            f"{estimated.high:.0f}. Particles and other peaks are much alike, so the cut-off is "
            "a guess. More clicks may help; look at the doubtful picks below."
        )
    if share is not None and share > 0.4:
        return (
            f"About {percent(share)} of the picks are expected to be false. For a purer list give "
            "pick --fdr 0.1."
        )
    return None


def _unlike(findings: Findings) -> str | None:
    histogram = findings.record.histogram
    if histogram is None or histogram.unlike_training < _UNLIKE:
        return None
    unlike = (
        "The scores here are distributed unlike those of the training tomogram (at least "
        f"{percent(histogram.unlike_training)} of the peaks would have to score differently)"
    )
    if findings.record.by_contrasts:
        return (
            f"{unlike}. How the average fits was used to tell the particles all the same; look at "
            "the doubtful picks."
        )
    return (
        f"{unlike}: there may be far more or far fewer particles, or it was imaged otherwise. "
        "The cut-off and the probabilities are less to be trusted: look at the doubtful picks, or "
        "train on clicks in this tomogram too."
    )


def _uncalibrated(findings: Findings) -> str | None:
    if findings.record.histogram is not None:
        return None
    return (
        "The model is not calibrated (preset paper, or training was stopped before its end): how "
        "many picks are false is not known, nor how many particles there are."
    )


def _known(values: Floats) -> Floats:
    return values[np.isfinite(values)]

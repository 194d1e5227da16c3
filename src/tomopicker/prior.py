"""How much of a tomogram is particle: the three class priors (paper 3.2, equations 2, 4 and 8)."""

from __future__ import annotations

from dataclasses import dataclass

from tomopicker.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Fractions of the counted voxels of the training data."""

    observed: float
    """π, equation 2: labelled positive voxels."""
    expected: float
    """π', equation 4: voxels of all the expected particles, labelled or not."""
    unlabelled: float
    """π'', equation 8: voxels of the expected particles that nobody labelled, π' - π."""


def class_prior(
    *, expected_particles: float, ball_voxels: int, labelled_voxels: int, total_voxels: int
) -> Prior:
    """Work out the priors from the expected number of particles.

    Parameters
    ----------
    expected_particles
        Ep, in all training tomograms together.
    ball_voxels
        Rn, voxels labelled for one particle that is not cut by a face.
    labelled_voxels
        |P|, positive voxels.
    total_voxels
        |P ∪ U|, positive and unlabelled voxels; padding is neither.

    Raises
    ------
    InputError
        When the expected particles have no more voxels than the labelled ones, or more than half
        of the volume.

    Notes
    -----
    As in the paper, balls that overlap or that a face cuts still count Rn voxels each in π', and
    π'' divides by |P ∪ U| although U alone holds the unlabelled particles: at the paper's scale
    a difference of 0.15 %.

    >>> class_prior(
    ...     expected_particles=100, ball_voxels=7, labelled_voxels=70, total_voxels=7000
    ... ).expected
    0.1
    """
    expected_voxels = expected_particles * ball_voxels
    if expected_voxels <= labelled_voxels:
        raise InputError(
            f"{expected_particles:g} expected particles of {ball_voxels} voxels"
            f" ({expected_voxels:.0f}) are no more than the {labelled_voxels} voxels labelled:"
            " raise --expected to all the particles there are, labelled or not"
        )
    if 2 * expected_voxels > total_voxels:
        raise InputError(
            f"{expected_particles:g} expected particles of {ball_voxels} voxels"
            f" ({expected_voxels:.0f}) would fill more than half of the {total_voxels} voxels:"
            " lower --expected or --radius"
        )
    observed = labelled_voxels / total_voxels
    expected = expected_voxels / total_voxels
    return Prior(observed=observed, expected=expected, unlabelled=expected - observed)

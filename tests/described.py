"""What a small checkpoint, or a list of picks, says of itself."""

from typing import Any

from tomopicker.calibrate import Calibration
from tomopicker.checkpoint import Description, Priors
from tomopicker.config import preset
from tomopicker.contrasts import Contrasts
from tomopicker.io.record import Origin, Record


def describe(radius: int, profile: tuple[float, ...], history: tuple[dict, ...]) -> Description:
    """Describe a calibrated `default` of few channels; radius in voxels of 10 Å."""
    config = preset(
        "default",
        radius_angstrom=10 * radius,
        voxel_size=10,
        overrides={"network.channels": [2, 3]},
    )
    return Description(
        config=config,
        voxel_size=10.0,
        radius_voxels=radius,
        priors=Priors(observed=0.01, expected=0.05, unlabelled=0.04),
        filter_profile=profile,
        contrasts=Contrasts(slope=0.5, mean=-0.1, rise=0.01, apart=0.4, deviation=0.2, ratio=1.2),
        calibration=Calibration(
            labelled_scores=(1.0, 2.5),
            labelled=3,
            held_out=True,
            peaks=40,
            particles=9.5,
            level=4.0,
            slope=1.5,
            curvature=0.2,
        ),
        training_tomograms=("one",),
        picks_sha256="0" * 64,
        epoch=len(history),
        history=history,
    )


def record_of(name: str, **facts: Any) -> Record:
    """Record how a tomogram of 10 Å was picked; `facts` are shape, picks and what differs."""
    usual = {
        "command": f"tomopicker pick run {name}.mrc --out picks",
        "finished": "2026-01-02T03:04:05+0000",
        "seconds": 12.0,
        "device": "cpu",
        "path": f"data/{name}.mrc",
        "voxel_size": 10.0,
        "scored_voxel_size": 10.0,
        "origin": Origin(checkpoint="ab", tomogram=()),
        "threshold": None,
    }
    return Record.model_validate({**usual, "tomogram": name, **facts})

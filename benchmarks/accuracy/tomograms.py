"""Make the tomograms of the accuracy benchmark: in-cell simulations of two imaging families.

Each set (a family and a target) has a training, a validation and four test tomograms, the latter
different from each other as real ones are: noise, contrast, thickness, defocus, wedge, crowding.
Six more, drawn at random, are there to choose by what must hold when tomograms differ.
The ribosomes of the training and of one test tomogram stand where real ones were found.

    python benchmarks/accuracy/tomograms.py --data FOLDER [--out FOLDER]

The data folder holds `densities/NAME_10A.mrc` (maps of molecules) and
`ts037/cyto_ribosomes_west.csv` (positions in a real cell); without it the molecules are phantoms
at random places, and the numbers are others.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

VOXEL_SIZE = 20.0
FAMILIES = ("vpp", "defocus")
TARGETS = {"ribosome": 145.0, "tric": 90.0}
"""Radius in ångström."""
CHOICE = tuple(f"choice{number}" for number in range(1, 7))
"""Tomograms that settings are chosen by, beside the validation tomogram."""
PARTS = ("train", "validation", "test1", "test2", "test3", "test4", *CHOICE)

_MAPS = {  # file, kilodaltons; RNA scatters more than protein of its mass
    "ribosome": ("4v7r", 4000),
    "fas": ("2uv8", 2600),
    "proteasome": ("4cr2", 2500),
    "tric": ("4v94", 1000),
    "proteasome20s": ("3j9i", 700),
    "p97": ("3cf3", 540),
    "clpb": ("1qvr", 580),
    "rubisco": ("1bxn", 550),
    "hsp90": ("2cg9", 180),
}
_DISTRACTORS = {  # for each target: others of about its own size first, then the smaller ones
    "ribosome": {
        "fas": 0.1,
        "proteasome": 0.15,
        "complex0": 0.1,
        "complex1": 0.1,
        "dumbbell": 0.1,
        "barrel": 0.1,
        "tric": 0.7,
        "proteasome20s": 0.7,
        "p97": 0.8,
        "clpb": 0.8,
        "rubisco": 0.8,
        "hsp90": 1.5,
    },
    "tric": {
        "complex0": 0.2,
        "complex1": 0.2,
        "barrel": 0.2,
        "proteasome20s": 0.6,
        "ribosome": 0.6,
        "fas": 0.1,
        "proteasome": 0.15,
        "p97": 0.8,
        "clpb": 0.8,
        "rubisco": 0.6,
        "hsp90": 1.5,
    },
}
_SNR = {
    ("vpp", "ribosome"): 0.5,
    ("defocus", "ribosome"): 0.28,
    ("vpp", "tric"): 0.4,
    ("defocus", "tric"): 0.25,
}
"""Chosen so that template matching with the true map has an F1 of 0.5 to 0.6
on the defocus family, as on the real TS_037."""

_CROWDED = {"train": (240, 560, 180), "test1": (235, 290, 180)}
"""Corners ``z y x``, in voxels of 13.48 Å, of the parts of TS_037 that give the positions."""

_SHAPES = {"train": (56, 176, 176)}
_SHAPE = (48, 160, 160)
_COUNTS = {  # targets of the parts that take no real positions
    "ribosome": {"validation": 70, "test2": 35, "test3": 60, "test4": 110},
    "tric": {"train": 220, "validation": 70, "test1": 120, "test2": 35, "test3": 60, "test4": 110},
}
_DIFFERENT = {  # factors on the set's own values, or values
    "train": {},
    "validation": {"snr": 0.9, "defocus_micrometres": 1.1, "margin": 0.15},
    "test1": {"snr": 1.0, "defocus_micrometres": 0.9, "slope_degrees": 2.0},
    "test2": {"snr": 1.15, "tilt_range_degrees": 48.0, "margin": 0.2, "crowding": 1.6},
    "test3": {
        "snr": 0.75,
        "defocus_micrometres": 1.15,
        "margin": 0.05,
        "noise_floor": 0.14,
        "band_limit": 0.44,
        "crowding": 1.2,
    },
    "test4": {
        "snr": 0.9,
        "defocus_micrometres": 1.25,
        "tilt_range_degrees": 54.0,
        "b_factor": 800.0,
        "membranes": 6,
        "beads": 14,
    },
}


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with densities and real positions")
    parser.add_argument("--out", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--only", help="names of sets or parts, separated by commas")
    options = parser.parse_args()
    only = options.only.split(",") if options.only else None
    for family in FAMILIES:
        for target in TARGETS:
            for part in PARTS:
                folder = options.out / f"{family}-{target}"
                if only and folder.name not in only and f"{folder.name}/{part}" not in only:
                    continue
                if not (folder / f"{part}.csv").exists():
                    make(family, target, part, folder, options.data)


def make(family: str, target: str, part: str, folder: Path, data: Path | None) -> None:
    """Simulate one tomogram and write it with its truth and its settings."""
    from tomopicker.simulate import simulate, write_simulation

    settings, templates, positions = describe(family, target, part, data)
    seed = [FAMILIES.index(family), list(TARGETS).index(target), PARTS.index(part)]
    made = simulate(
        settings, rng=np.random.default_rng(seed), templates=templates, positions=positions
    )
    write_simulation(folder, made, part)
    facts = {
        "settings": settings.model_dump(mode="json"),
        "targets": len(made.particles),
        "others": {name: len(particles) for name, particles in made.others.items()},
    }
    (folder / f"{part}.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(
        f"{folder.name}/{part}: {facts['targets']} targets, {sum(facts['others'].values())} others"
    )


def describe(family: str, target: str, part: str, data: Path | None):
    """Settings, templates and given positions of one tomogram."""
    from tomopicker.simulate import PHASE_PLATE, TARGET, Simulation

    radius = TARGETS[target]
    shape = _SHAPES.get(part, _SHAPE)
    different = _drawn(part) if part in CHOICE else dict(_DIFFERENT[part])
    crowding = different.pop("crowding", 1.0)
    count = different.pop("particles", _COUNTS[target].get(part))
    base = Simulation(
        shape=shape,
        voxel_size=VOXEL_SIZE,
        radius_angstrom=radius,
        band_limit=0.5,  # binned from a finer reconstruction, whose own limit is beyond
        contact=0.65,
        cytosol=0.15,
        margin=0.1,
        membranes=4,
        vesicles=3,
        beads=8,
        snr=_SNR[family, target],
        **(PHASE_PLATE if family == "vpp" else {}),
    )
    values: dict[str, object] = {}
    for name, value in different.items():
        is_factor = name in ("snr", "defocus_micrometres")
        values[name] = getattr(base, name) * value if is_factor else value
    positions = {}
    if target == "ribosome" and part in _CROWDED:
        if data is not None:
            positions[TARGET] = _real_positions(data, part, shape)
            count = len(positions[TARGET])
        else:
            count = {"train": 220, "test1": 130}[part]
    values["particles"] = count
    names = _DISTRACTORS[target]
    values["distractors"] = {name: share * crowding for name, share in names.items()}
    if part == "train" or part == "test1":  # as crowded by others as a cytosol has room for
        values["distractors"] = {name: share * 0.6 for name, share in names.items()}
    settings = Simulation.model_validate({**base.model_dump(), **values})
    templates = _templates(target, data)
    known = {"globule", "rod", "ring", "barrel", "dumbbell", *templates}
    if data is None:
        built_in = {"globule": 3.0, "rod": 0.8, "ring": 1.0, "barrel": 0.3, "dumbbell": 0.3}
        settings = settings.model_copy(update={"distractors": built_in})
    else:
        assert set(settings.distractors) <= known
    return settings, templates, positions


def _drawn(part: str) -> dict[str, float]:
    """How a tomogram to choose by differs, drawn from about the range of the tests' differences."""
    rng = np.random.default_rng([20261124, CHOICE.index(part)])
    return {
        "snr": rng.uniform(0.65, 1.25),
        "defocus_micrometres": rng.uniform(0.8, 1.3),
        "tilt_range_degrees": rng.uniform(48, 62),
        "margin": rng.uniform(0.05, 0.2),
        "noise_floor": rng.uniform(0.07, 0.16),
        "band_limit": rng.uniform(0.42, 0.55),
        "b_factor": rng.uniform(500, 900),
        "membranes": int(rng.integers(2, 7)),
        "beads": int(rng.integers(4, 16)),
        "crowding": rng.uniform(0.8, 1.5),
        "particles": int(rng.integers(30, 130)),
    }


def _templates(target: str, data: Path | None):
    from tomopicker.io.tomograms import read_tomogram
    from tomopicker.simulate import TARGET, phantom, resample_density

    if data is None:
        return {}
    templates = {}
    for name, (file, mass) in _MAPS.items():
        if name == target or name in _DISTRACTORS[target]:
            path = data / "densities" / f"{file}_10A.mrc"
            source = np.asarray(read_tomogram(path, voxel_size=10.0).data)
            templates[TARGET if name == target else name] = resample_density(
                _first_of_two(source) if name == "tric" else source,
                source_voxel_size=10.0,
                voxel_size=VOXEL_SIZE,
                kilodaltons=mass,
            )
    # Unknown complexes, lobed as a ribosome, of about the target's size and density.
    radius = TARGETS[target] / VOXEL_SIZE
    for number, factor in enumerate((0.85, 1.0)):
        density = phantom(radius * factor, seed=11 + number)
        mass = _MAPS[target][1] * 1210 / VOXEL_SIZE**3
        templates[f"complex{number}"] = density * np.float32(0.8 * mass / density.sum())
    return templates


def _first_of_two(source: np.ndarray) -> np.ndarray:
    """One of the two chaperonins of the crystal's asymmetric unit, which that map shows."""
    parts, _ = ndimage.label(source > 0.2 * source.max())
    sizes = np.bincount(parts.ravel())[1:]
    first, second = np.argsort(sizes)[:-3:-1] + 1
    mine, other = (ndimage.distance_transform_edt(parts != part) for part in (first, second))
    return np.where(mine < other, source, 0)


def _real_positions(data: Path, part: str, shape: tuple[int, int, int]) -> np.ndarray:
    """(n, 3) voxels ``z y x``."""
    table = np.loadtxt(data / "ts037" / "cyto_ribosomes_west.csv", delimiter=",")
    where = (table[:, 2::-1] - _CROWDED[part]) * 13.48 / VOXEL_SIZE
    # What a lamella's milling removes: nothing stands in the ice above and below.
    thickness = shape[0]
    low = np.array([0.1 * thickness + 3, 0, 0])
    high = np.array([0.9 * thickness - 4, shape[1] - 1, shape[2] - 1])
    return where[((where >= low) & (where <= high)).all(axis=1)]


if __name__ == "__main__":
    main()

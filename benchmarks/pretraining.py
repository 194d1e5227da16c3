"""Make the weights that training starts from: many simulated particles, found by what was clicked.

Every session has its own target, other molecules and optics, and two tomograms that differ in
crowding, noise, defocus and wedge as those of one microscope session do. The network sees, as it
will in use, a tomogram and its correlation with the radial filter of a few imprecise clicks in the
first of the two, and learns to tell those particles from everything else there. It thus learns what
particles and noise look like, and to find what the second channel points at, whatever it is.
Neither a ribosome nor a chaperonin, the targets of the accuracy benchmark, is among the targets.

    python benchmarks/pretraining.py volumes --data FOLDER --out FOLDER [--number 1200] [--first 0]
    python benchmarks/pretraining.py train FOLDER --out WEIGHTS [--steps 12000]
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np

SHAPE = (48, 112, 112)
MAPS = {  # file and kilodaltons
    "2uv8": 2600,
    "4cr2": 2500,
    "3j9i": 700,
    "3cf3": 540,
    "1qvr": 580,
    "1bxn": 550,
    "2cg9": 180,
    "3d2f": 200,
    "1u6g": 220,
}
BUILT_IN = ("globule", "rod", "ring", "barrel", "dumbbell")
CORE = 0.5


def main() -> None:
    """Make the volumes of sessions, or train on them."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("volumes")
    make.add_argument("--data", type=Path, required=True, help="folder with densities/")
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--number", type=int, default=1200, help="of sessions")
    make.add_argument("--first", type=int, default=0, help="seed of the first session")
    train_ = commands.add_parser("train")
    train_.add_argument("folder", type=Path)
    train_.add_argument("--out", type=Path, required=True)
    train_.add_argument("--steps", type=int, default=12000)
    train_.add_argument("--batch", type=int, default=8)
    train_.add_argument("--seed", type=int, default=0)
    train_.add_argument("--channels", default="24,48,96")
    options = parser.parse_args()
    if options.command == "train":
        train(options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.first, options.first + options.number):
        files = [options.out / f"{seed:05d}{which}.npz" for which in "ab"]
        if not all(file.exists() for file in files):
            for file, volume in zip(files, session(seed, options.data), strict=True):
                whole = file.with_suffix(".unfinished.npz")
                np.savez(whole, **volume)
                whole.replace(file)


def session(seed: int, data: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Simulate two tomograms of one session: their channels, labels and the targets' centres.

    The filter of both is learned from clicks in the first, as it is in use.
    """
    from tomopicker.errors import InputError
    from tomopicker.features import compute_features
    from tomopicker.labels import stamp
    from tomopicker.matched_filter import learn_filter
    from tomopicker.preprocess import Normalisation
    from tomopicker.simulate import simulate
    from tomopicker.types import Tomogram

    rng = np.random.default_rng([20261124, seed])
    while True:
        first, templates = _session(rng, data)
        both = (first, _another(first, rng))
        try:
            made = [simulate(settings, rng=rng, templates=templates) for settings in both]
        except InputError:  # no room for so many
            continue
        break
    treat = _treatment(rng)
    images = [treat(one.volume, settings) for one, settings in zip(made, both, strict=True)]
    tomograms = [
        Tomogram(name=str(seed), data=image, voxel_size=first.voxel_size) for image in images
    ]
    normalisations = [Normalisation.of(image, source=str(seed)) for image in images]
    plain = [compute_features(*one, None) for one in zip(tomograms, normalisations, strict=True)]
    centres = made[0].particles.voxels
    number = min(int(rng.choice([5, 10, 25, 50, 100])), len(centres))
    clicked = centres[rng.permutation(len(centres))[:number]]
    clicked = clicked + rng.normal(0, 0.08 * first.radius, size=clicked.shape)
    clicked = np.clip(clicked, 0, np.array(SHAPE) - 1)
    radius = first.radius * rng.uniform(0.9, 1.1)  # as the user measured it
    radial = learn_filter([(plain[0].density, SHAPE, clicked)], radius=radius)
    volumes = []
    for one, tomogram, normalisation, density in zip(
        made, tomograms, normalisations, plain, strict=True
    ):
        correlation = compute_features(tomogram, normalisation, radial).correlation
        volumes.append(
            {
                "density": density.density(_everything()).astype(np.float16),
                "correlation": correlation.astype(np.float16),
                "labels": stamp(SHAPE, one.particles.voxels, radius=max(CORE * radius, 1.0)),
                "centres": one.particles.voxels,
                "radius": np.array(first.radius),
            }
        )
    return volumes[0], volumes[1]


def _everything():
    from tomopicker.types import Window

    return Window(corner=(0, 0, 0), shape=SHAPE)


def _session(rng: np.random.Generator, data: Path):
    """Settings and templates of a session, all at random."""
    from tomopicker.simulate import PHASE_PLATE, TARGET, Simulation, phantom

    in_voxels = float(rng.uniform(3.5, 9.0))
    names = list(rng.permutation(list(MAPS)))
    if rng.uniform() < 0.5:  # a phantom: every seed another molecule
        extent = float(rng.uniform(70, 170))
        voxel_size = extent / in_voxels
        target = _reshaped(phantom(in_voxels, seed=int(rng.integers(1, 2**31))), rng)
    else:
        file = names.pop()
        extent = _extent(data, file)
        voxel_size = extent / in_voxels
        target = _read(data, file, voxel_size)
    templates = {TARGET: target}
    shares = {}
    for name in names[: int(rng.integers(2, 6))]:
        templates[name] = _read(data, name, voxel_size)
        shares[name] = float(rng.lognormal(-0.5, 0.7))
    for name in rng.permutation(BUILT_IN)[: int(rng.integers(1, 4))]:
        shares[str(name)] = float(rng.lognormal(-1.0, 0.7))
    for number in range(int(rng.integers(0, 3))):
        size = in_voxels * math.exp(rng.uniform(math.log(0.6), math.log(1.8)))
        templates[f"phantom{number}"] = _reshaped(
            phantom(size, seed=int(rng.integers(1, 2**31))), rng
        )
        shares[f"phantom{number}"] = float(rng.lognormal(-1.0, 0.7))
    fraction = math.exp(rng.uniform(math.log(0.004), math.log(0.06)))  # of the volume
    count = max(6, round(fraction * math.prod(SHAPE) / (4 / 3 * math.pi * in_voxels**3)))
    optics = (
        dict(PHASE_PLATE) if rng.uniform() < 0.3 else {"defocus_micrometres": rng.uniform(1.5, 6)}
    )
    settings = Simulation(
        shape=SHAPE,
        voxel_size=voxel_size,
        radius_angstrom=extent,
        particles=count,
        contact=rng.uniform(0.55, 0.95),
        clustered=rng.uniform(0, 0.6),
        on_membranes=rng.uniform(0, 0.3),
        distractors=shares,
        cytosol=rng.uniform(0, 0.2),
        margin=rng.uniform(0, 0.2),
        slope_degrees=rng.uniform(-5, 5),
        membranes=int(rng.integers(0, 4)),
        vesicles=int(rng.integers(0, 3)),
        beads=int(rng.integers(0, 4)),
        tilt_range_degrees=rng.uniform(42, 66),
        b_factor=math.exp(rng.uniform(math.log(200), math.log(1500))),
        band_limit=rng.uniform(0.32, 0.6),
        noise_floor=math.exp(rng.uniform(math.log(0.04), math.log(0.3))),
        snr=math.exp(rng.uniform(math.log(0.1), math.log(1.2))),
        **optics,
    )
    return settings, templates


def _read(data: Path, file: str, voxel_size: float) -> np.ndarray:
    from tomopicker.simulate import read_density

    path = data / "densities" / f"{file}_10A.mrc"
    return read_density(path, voxel_size=voxel_size, source_voxel_size=10.0, kilodaltons=MAPS[file])


def _extent(data: Path, file: str) -> float:
    """Radius in ångström that holds 95 % of a molecule."""
    density = _read(data, file, 10.0)
    half = density.shape[0] // 2
    axis = np.arange(-half, half + 1)
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).ravel()
    order = np.argsort(distance)
    inside = np.cumsum(density.ravel()[order])
    return 10.0 * float(distance[order][np.searchsorted(inside, 0.95 * inside[-1])])


def _reshaped(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another shape and mass: stretched along random axes, some hollow, some heavy."""
    from scipy import ndimage

    half = density.shape[0] // 2
    axis = np.arange(-half, half + 1) * 1.0
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    squeeze = 1 / rng.uniform(0.55, 1.0, size=3)
    squeeze /= squeeze.min()
    shape = ndimage.map_coordinates(density, grid * squeeze[:, None, None, None] + half, order=1)
    if rng.uniform() < 0.25:
        distance = np.sqrt(((grid * squeeze[:, None, None, None]) ** 2).sum(axis=0))
        shape = shape * (distance > rng.uniform(0.2, 0.5) * half)
    return (shape * rng.uniform(0.7, 1.4)).astype(np.float32)


def _another(settings, rng: np.random.Generator):
    """Settings of another tomogram of the session, which differs as far as real ones do."""

    def about(value: float, factor: float) -> float:
        return float(value * factor ** rng.uniform(-1, 1))

    crowding = about(1.0, 1.6)
    return settings.model_copy(
        update={
            "particles": max(4, round(about(settings.particles, 2.0))),
            "distractors": {k: v * crowding for k, v in settings.distractors.items()},
            "snr": about(settings.snr, 1.5),
            "defocus_micrometres": about(settings.defocus_micrometres, 1.35),
            "tilt_range_degrees": float(
                np.clip(settings.tilt_range_degrees + rng.normal(0, 5), 40, 70)
            ),
            "b_factor": about(settings.b_factor, 1.4),
            "band_limit": about(settings.band_limit, 1.15),
            "noise_floor": about(settings.noise_floor, 1.5),
            "margin": rng.uniform(0, 0.2),
            "slope_degrees": rng.uniform(-5, 5),
            "membranes": int(rng.integers(0, 5)),
            "vesicles": int(rng.integers(0, 3)),
            "beads": int(rng.integers(0, 5)),
        }
    )


def _treatment(rng: np.random.Generator):
    """What software does to the reconstructions of a session.

    Nothing, flipped phases, or a Wiener filter for the contrast transfer; then often a blur.
    """
    from scipy import fft
    from scipy.ndimage import gaussian_filter

    from tomopicker.simulate import transfer

    kind = rng.choice(["none", "flip", "wiener"], p=[0.5, 0.3, 0.2])
    trust = math.exp(rng.uniform(math.log(0.03), math.log(0.5)))
    blur = rng.uniform(0.3, 1.0) if rng.uniform() < 0.3 else 0.0

    def treat(image: np.ndarray, settings) -> np.ndarray:
        amplitude, colour = transfer(SHAPE, settings)
        # The transfer starts with the sign of the lowest frequencies, and keeps it when corrected.
        amplitude = amplitude * np.sign(amplitude.ravel()[1] or -1)
        if kind == "flip":
            image = fft.irfftn(fft.rfftn(image) * np.where(amplitude >= 0, 1, -1), SHAPE)
        elif kind == "wiener":
            relative = np.divide(
                amplitude, colour, out=np.zeros_like(amplitude), where=colour > 1e-3 * colour.max()
            )
            relative /= np.abs(relative).max()
            image = fft.irfftn(fft.rfftn(image) * relative / (relative**2 + trust**2), SHAPE)
        if blur:
            image = gaussian_filter(image, blur)
        return np.asarray(image / image.std(), dtype=np.float32)

    return treat


def train(options: argparse.Namespace) -> None:
    """Train on crops of all volumes, targets against everything else, and save the weights."""
    import torch
    from safetensors.torch import save_file

    from tomopicker.augment import augment
    from tomopicker.config import Network
    from tomopicker.network import build
    from tomopicker.objectives import balanced_pu
    from tomopicker.prior import Prior

    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    settings = Network(
        architecture="space-to-depth",
        block="plain",
        channels=tuple(int(c) for c in options.channels.split(",")),
        filter_channel=True,
    )
    network = build(settings).to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    files = sorted(options.folder.glob("[0-9]*[ab].npz"))
    held_out, files = files[:32], files[32:]
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cache: dict[Path, dict[str, np.ndarray]] = {}
    started, recent = time.time(), []
    # Every target is labelled: what is not positive is negative.
    all_known = Prior(observed=0.0, expected=0.0, unlabelled=0.0)
    for step in range(options.steps):
        warm = min(1.0, (step + 1) / 100)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * warm * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        network.train()
        side = 32
        crops, labels = [], []
        for _ in range(options.batch):
            file = files[int(rng.integers(len(files)))]
            if file not in cache:
                cache[file] = dict(np.load(file))
            crop, label = _crop(cache[file], side, rng)
            crops.append(crop)
            labels.append(label)
        volumes, wanted = augment(
            torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(labels)), rng=rng
        )
        logits = network(volumes)
        loss = balanced_pu(logits, wanted, all_known).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        keep = min(0.995, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, 1 - keep)
            else:
                average[name].copy_(tensor)
        recent.append(float(loss.detach()))
        if (step + 1) % 500 == 0 or step + 1 == options.steps:
            own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            network.load_state_dict(average)
            half = {
                k: (t.half() if t.is_floating_point() else t).contiguous()
                for k, t in average.items()
            }
            save_file(half, options.out)
            print(
                f"{step + 1}: loss {np.mean(recent):.3f}, {_measure(network, held_out)}, "
                f"{time.time() - started:.0f} s",
                flush=True,
            )
            network.load_state_dict(own)
            recent.clear()


def _crop(held: dict[str, np.ndarray], side: int, rng: np.random.Generator):
    centre = held["centres"][int(rng.integers(len(held["centres"])))]
    if rng.uniform() < 0.4:
        centre = rng.uniform(0, SHAPE)
    corner = np.rint(centre + rng.uniform(-0.35, 0.35, size=3) * side - side / 2).astype(int)
    corner = np.clip(corner, 0, np.array(SHAPE) - side)
    at = tuple(slice(c, c + side) for c in corner)
    channels = [held["density"][at].astype(np.float32), held["correlation"][at].astype(np.float32)]
    return np.stack(channels), held["labels"][at]


def _measure(network, files) -> str:
    """F1 at the true count on volumes that were held out, of the network and of the filter."""
    import torch

    from tomopicker.evaluate import evaluate
    from tomopicker.peaks import find_peaks

    network.eval()
    found = []
    for file in files:
        held = dict(np.load(file))
        channels = np.stack([held["density"], held["correlation"]]).astype(np.float32)
        with torch.inference_mode():
            logits = network(torch.from_numpy(channels)[None])[0].numpy()
        radius = float(held["radius"])
        row = []
        for scores in (logits, channels[1]):
            peaks = find_peaks(scores, radius=0.8 * radius, count=len(held["centres"]))
            met = evaluate(peaks.voxels, held["centres"], tolerance=radius * 10 / 12)
            row.append(met.one_to_one.f1)
        found.append(row)
    network_f1, filter_f1 = np.mean(found, axis=0)
    return f"held-out F1 {network_f1:.3f} (filter {filter_f1:.3f})"


if __name__ == "__main__":
    main()

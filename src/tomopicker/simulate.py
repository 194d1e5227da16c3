"""Simulate tomograms with planted particles, for the demo, the tests and the benchmarks.

Density is in units of the inside of a protein and positive; the volume is as the field has it,
dark where matter is. The tilt axis is y and the beam runs along z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from tomopicker.config import Fraction, NotNegative, Positive, Stage
from tomopicker.errors import InputError
from tomopicker.types import Floats, Particles, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Density: TypeAlias = NDArray[np.float32]
"""An odd cube ``z y x`` whose central voxel is the molecule's centre of mass."""

TARGET = "target"
"""Name of the particle to be found among templates and positions."""

PHASE_PLATE = {"phase_shift_degrees": 90.0, "defocus_micrometres": 0.5}
"""Settings that differ when a phase plate was used: low frequencies show, and so does contrast."""

Count = Annotated[int, Field(ge=0)]


class Simulation(Stage):
    """What a simulated tomogram shows and how it was imaged."""

    shape: tuple[
        Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]
    ] = (64, 256, 256)
    voxel_size: Positive = 13.5
    """Ångström."""

    radius_angstrom: Positive = 150.0
    """Of the target."""
    particles: Count | None = None
    """Number of targets; None takes `concentration`."""
    concentration: Positive = 10_000.0
    """Targets per cubic micrometre: about that of ribosomes in a yeast's cytosol."""
    contact: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Least distance of two molecules, in units of the sum of their radii."""
    clustered: Fraction = 0.3
    """Share of the targets placed beside another one, as in polysomes."""
    on_membranes: Fraction = 0.1
    """Share of the targets that touch a membrane, where there is one."""
    distractors: dict[str, NotNegative] = Field(
        default={"globule": 3.0, "rod": 0.8, "ring": 1.0, "barrel": 0.3, "dumbbell": 0.3}
    )
    """Other molecules for each target, by name; as many as fit are placed."""
    cytosol: Fraction = 0.1
    """Share of the cell's volume filled by proteins too small to be told apart."""

    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Ice without a cell above and below the lamella, each as a share of the thickness."""
    slope_degrees: Annotated[float, Field(gt=-45, lt=45)] = 0.0
    """Tilt of the lamella about y."""
    membranes: Count = 2
    vesicles: Count = 1
    beads: Count = 3
    """Gold beads or specks of contamination, very dark."""

    tilt_range_degrees: Annotated[float, Field(gt=0, le=90)] = 60.0
    """Tilts run from minus this to plus this; the rest is the missing wedge."""
    defocus_micrometres: NotNegative = 3.25
    """Underfocus."""
    phase_shift_degrees: Annotated[float, Field(ge=0, lt=180)] = 0.0
    """Of a phase plate: about 90."""
    amplitude_contrast: Fraction = 0.07
    kilovolts: Positive = 300.0
    spherical_aberration_millimetres: NotNegative = 2.7
    b_factor: NotNegative = 600.0
    """Of the signal, square ångström."""
    band_limit: Positive = 0.35
    """Frequency at which the reconstruction's amplitude has fallen to exp(-1/2), per voxel."""
    noise_floor: Positive = 0.1
    """Frequency below which the noise is white, per voxel; above, its power grows as frequency."""
    snr: Positive = 0.13
    """Variance of one target's imaged density within its radius over that of the noise."""

    @property
    def radius(self) -> float:
        """Of the target, in voxels."""
        return self.radius_angstrom / self.voxel_size

    @property
    def count(self) -> int:
        """Number of targets.

        >>> Simulation(shape=(10, 100, 100), voxel_size=100.0).count
        1000
        """
        if self.particles is not None:
            return self.particles
        z, y, x = (side * self.voxel_size * 1e-4 for side in self.shape)
        return max(1, round(self.concentration * z * y * x))


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A simulated tomogram and the truth about it."""

    volume: NDArray[np.float32]
    """``z y x``, dark where matter is; the noise has standard deviation 1."""
    particles: Particles
    """Centres of mass of the targets."""
    others: Mapping[str, Particles]
    """Those of the other molecules, by name."""
    settings: Simulation


def simulate(
    settings: Simulation,
    *,
    rng: np.random.Generator,
    templates: Mapping[str, Density] | None = None,
    positions: Mapping[str, Floats] | None = None,
) -> Simulated:
    """Plant molecules, membranes and beads in ice, and image them as a tilt series does.

    The volume is ``-F⁻¹[wedge · L · (ctf · exp(-B k²/4) · F density)] + noise``; the noise has
    the power ``wedge · L² · (k + k0)`` of a weighted back-projection, L the reconstruction's
    low-pass.

    Molecules are planted in this order: the targets, then the others, largest first, as many as
    fit; see `Simulation` for where.

    Parameters
    ----------
    settings
        Everything that is not random.
    rng
        Source of all that is.
    templates
        Densities by name at the settings' voxel size, such as `read_density` gives; ``"target"``
        replaces the phantom, any other name is a distractor and may replace a built-in one.
    positions
        (n, 3) voxel coordinates ``z y x`` by name, for molecules that are not to be placed at
        random; they are taken as they are.

    Raises
    ------
    InputError
        When the targets do not fit, a distractor is unknown or a position is outside.
    """
    templates, given = dict(templates or {}), dict(positions or {})
    _check(settings, templates, given)
    templates.setdefault(TARGET, phantom(settings.radius))
    for name in settings.distractors:
        if name not in templates:
            templates[name] = _built_in(name, settings)

    lamella = _soft(_depth(settings))
    density, membranes = _membranes(settings, rng)
    density += _cytosol(settings, rng)
    density *= lamella
    centres = _place(settings, templates, given, membranes, rng)
    for name, where in centres.items():
        if len(where):
            # A normalised 4D normal deviate is a uniform rotation.
            turns = Rotation.from_quat(rng.normal(size=(len(where), 4)))
            plant(density, templates[name], where, turns)
    _add_beads(density, settings, rng)

    return Simulated(
        volume=_image(density, templates[TARGET], settings, rng),
        particles=Particles.from_voxels(centres[TARGET], voxel_size=settings.voxel_size),
        others={
            name: Particles.from_voxels(where, voxel_size=settings.voxel_size)
            for name, where in centres.items()
            if name != TARGET
        },
        settings=settings,
    )


def vary(settings: Simulation, *, rng: np.random.Generator) -> Simulation:
    """Settings of another tomogram of the same session: thickness, crowding, optics and noise."""

    def about(value: float, factor: float) -> float:
        return float(value * factor ** rng.uniform(-1, 1))

    return Simulation.model_validate(
        {
            **settings.model_dump(),
            "concentration": about(settings.concentration, 1.4),
            "distractors": {
                name: about(share, 1.5) for name, share in settings.distractors.items()
            },
            "cytosol": min(1.0, about(settings.cytosol, 1.5)),
            "margin": min(0.45, about(settings.margin, 1.5)),
            "slope_degrees": float(rng.uniform(-3, 3)),
            "membranes": int(rng.integers(settings.membranes + 2)),
            "vesicles": int(rng.integers(settings.vesicles + 2)),
            "beads": int(rng.integers(settings.beads + 2)),
            "defocus_micrometres": about(settings.defocus_micrometres, 1.2),
            "b_factor": about(settings.b_factor, 1.4),
            "band_limit": about(settings.band_limit, 1.1),
            "noise_floor": about(settings.noise_floor, 1.4),
            "snr": about(settings.snr, 1.25),
        }
    )


def phantom(radius: float, *, seed: int = 0) -> Density:
    """Make a ribosome-like density: two lobed subunits, a cleft between them and a few stalks.

    Parameters
    ----------
    radius
        Voxels from the centre of mass to the outermost density.
    seed
        Another seed is another particle of the same kind.

    Returns
    -------
    (s, s, s) density, 1 inside the molecule, centred on its centre of mass.
    """
    rng = np.random.default_rng(seed)
    blobs = _phantom_blobs(rng)  # (n, 5)
    half = int(np.ceil(radius)) + 2
    axis = np.arange(-half, half + 1)
    shift = np.zeros(3)
    for _ in range(4):  # Saturation moves the centre of mass a little: follow it.
        density = np.zeros((len(axis),) * 3)
        for *centre, sigma, weight in blobs:
            width = np.hypot(sigma * radius, 0.4)  # A voxel cannot show less.
            z, y, x = (
                np.exp(-((axis - c * radius + d) ** 2) / (2 * width**2))
                for c, d in zip(centre, shift, strict=True)
            )
            density += weight * z[:, None, None] * y[:, None] * x
        density = np.tanh(density)
        shift += np.array(ndimage.center_of_mass(density)) - half
    return density.astype(np.float32)


def read_density(
    path: str | Path,
    *,
    voxel_size: float,
    source_voxel_size: float | None = None,
    kilodaltons: float | None = None,
) -> Density:
    """Read a molecule's density map from an MRC file and bring it to a voxel size in ångström.

    See `resample_density`; `source_voxel_size` overrides the file's header.
    """
    from tomopicker.io.tomograms import read_tomogram

    source = read_tomogram(path, voxel_size=source_voxel_size)
    try:
        return resample_density(
            source.data,
            source_voxel_size=source.voxel_size,
            voxel_size=voxel_size,
            kilodaltons=kilodaltons,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def resample_density(
    source: NDArray[Any],
    *,
    source_voxel_size: float,
    voxel_size: float,
    kilodaltons: float | None = None,
) -> Density:
    """Bring a molecule's density map to another voxel size, centred and on our scale.

    Parameters
    ----------
    source
        (z y x) map, matter positive; its scale and centre do not matter.
    source_voxel_size
        Its voxel size, ångström.
    voxel_size
        Of the result, ångström.
    kilodaltons
        The molecule's mass, which sets the scale (a protein takes 1.21 Å³ per dalton); without it
        the median inside the molecule is 1.

    Raises
    ------
    InputError
        When the map is not a volume with positive density.
    """
    source = np.asarray(source, dtype=np.float64)
    if source.ndim != 3 or not source.max() > 0:
        raise InputError("expected a density map, a volume in which matter is positive")
    # What is far below the brightest is solvent, or ripples around the molecule.
    source = np.where(source > 0.05 * np.quantile(source, 0.9999), source, 0)
    centre = np.array(ndimage.center_of_mass(source))
    extent = float(np.linalg.norm(np.argwhere(source) - centre, axis=1).max())
    zoom = voxel_size / source_voxel_size
    low_pass = 0.4 * zoom  # sigma: the coarser grid shows nothing finer
    source = ndimage.gaussian_filter(source, low_pass, mode="constant")
    half = math.ceil((extent + 2 * low_pass) / zoom)
    grid = _cube(half) * zoom + centre[:, None, None, None]
    density = ndimage.map_coordinates(source, grid, order=1)
    if kilodaltons is None:
        density /= np.median(density[density > 0.3 * np.quantile(density, 0.999)])
    else:
        density *= 1210.0 * kilodaltons / voxel_size**3 / density.sum()
    return np.asarray(density, dtype=np.float32)


def plant(
    volume: NDArray[np.float32], density: Density, centres: Floats, orientations: Rotation
) -> None:
    """Add copies of a molecule to a volume, in place; what is outside is cut off.

    Parameters
    ----------
    volume
        ``z y x``.
    density
        (s, s, s).
    centres
        (n, 3) voxel coordinates ``z y x``, not rounded.
    orientations
        n rotations of vectors ``x y z``.
    """
    half = density.shape[0] // 2
    splines = ndimage.spline_filter(density, order=3, output=np.float32)
    # A matrix that turns x y z, read backwards along both sides, turns z y x.
    matrices = orientations.as_matrix()[:, ::-1, ::-1]
    for centre, matrix in zip(centres, matrices, strict=True):
        first = np.maximum(np.ceil(centre - half), 0).astype(int)
        last = np.minimum(np.floor(centre + half) + 1, volume.shape).astype(int)
        if (last <= first).any():
            continue
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        offsets = np.stack(np.meshgrid(*(np.r_[s] for s in box), indexing="ij"))
        offsets = offsets - centre[:, None, None, None]
        source = np.tensordot(matrix.T, offsets, axes=1) + half
        volume[box] += ndimage.map_coordinates(
            splines, source, order=3, prefilter=False, output=np.float32
        )


def transfer(shape: Shape, settings: Simulation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Amplitudes that the imaging gives the density and white noise, as ``scipy.fft.rfftn`` has k.

    The first is ``-ctf(k) exp(-B k²/4) L(k) wedge``, with
    ``ctf = sin(pi lambda z k² - pi Cs lambda³ k⁴ / 2 + phase shift + asin(amplitude contrast))``;
    the second ``sqrt(k + k0) L(k) wedge``, where the root is what remains of the ramp of a
    weighted back-projection; ``L = exp(-(k / band limit)⁶ / 2)``.
    """
    z, y, x = (
        frequencies.astype(np.float32).reshape(side)
        for frequencies, side in (
            (fft.fftfreq(shape[0]), (-1, 1, 1)),
            (fft.fftfreq(shape[1]), (1, -1, 1)),
            (fft.rfftfreq(shape[2]), (1, 1, -1)),
        )
    )
    squared = z**2 + y**2 + x**2  # per voxel
    angle = np.degrees(np.arctan2(np.abs(z), np.abs(x)))  # (z 1 x): every tilt has the axis y
    wedge = np.clip((settings.tilt_range_degrees - angle) / _WEDGE_EDGE_DEGREES + 0.5, 0, 1)
    common = np.exp(-0.5 * (squared / settings.band_limit**2) ** 3) * wedge

    per_angstrom = squared / settings.voxel_size**2
    wavelength = _wavelength(settings.kilovolts)
    phase = (
        np.pi * wavelength * settings.defocus_micrometres * 1e4 * per_angstrom
        - np.pi
        / 2
        * settings.spherical_aberration_millimetres
        * 1e7
        * wavelength**3
        * per_angstrom**2
        + math.radians(settings.phase_shift_degrees)
        + math.asin(settings.amplitude_contrast)
    )
    signal = -np.sin(phase) * np.exp(-settings.b_factor / 4 * per_angstrom) * common
    noise = np.sqrt(np.sqrt(squared) + settings.noise_floor) * common
    return signal.astype(np.float32), noise.astype(np.float32)


def write_simulation(folder: str | Path, simulated: Simulated, name: str) -> None:
    """Write ``<name>.mrc`` and the targets' centres, ``<name>.csv``, to a folder."""
    from tomopicker.io.particles import write_particles
    from tomopicker.io.tomograms import write_volume

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    voxel_size = simulated.settings.voxel_size
    write_volume(folder / f"{name}.mrc", simulated.volume, voxel_size=voxel_size)
    write_particles(folder / f"{name}.csv", simulated.particles, format="csv")


_WEDGE_EDGE_DEGREES = 2.0


def _check(
    settings: Simulation, templates: Mapping[str, Density], given: Mapping[str, Floats]
) -> None:
    """Refuse what cannot be simulated."""
    known = sorted({*_BUILT_IN, *templates} - {TARGET})
    for name in settings.distractors:
        if name not in known:
            raise InputError(f"unknown distractor {name!r}; there are {', '.join(known)}")
    for name, density in templates.items():
        if density.ndim != 3 or len(set(density.shape)) != 1 or density.shape[0] % 2 == 0:
            raise InputError(
                f"template {name!r} must be a cube of odd side, got {density.shape}; "
                "see resample_density"
            )
        if name != TARGET and name not in settings.distractors and name not in given:
            raise InputError(f"template {name!r} has neither positions nor a share of distractors")
    for name, where in given.items():
        if name not in {TARGET, *templates, *settings.distractors}:
            raise InputError(f"positions of {name!r}, of which there is no template")
        outside = (where < -0.5) | (where > np.array(settings.shape) - 0.5)
        if outside.any():
            row = int(np.flatnonzero(outside.any(axis=1))[0]) + 1
            raise InputError(f"position {row} of {name!r} is outside the volume {settings.shape}")
    smallest = math.ceil(2 * settings.radius)
    if TARGET not in given and settings.count and min(settings.shape) < smallest:
        raise InputError(
            f"a particle of radius {settings.radius_angstrom:g} Å is {smallest} voxels wide and "
            f"does not fit in {_by(settings.shape)} voxels; make every side {smallest} or more"
        )


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _grid(shape: Shape) -> tuple[Floats, Floats, Floats]:
    """Voxel coordinates along ``z y x``, to broadcast."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return z, y, x


def _cube(half: int) -> Floats:
    """(3, s, s, s) offsets ``z y x`` from the centre of a cube of side 2 half + 1."""
    axis = slice(-half, half + 1)
    return np.asarray(np.mgrid[axis, axis, axis], dtype=np.float64)


def _depth(settings: Simulation) -> Floats:
    """(z 1 x) voxels below the lamella's nearer face; negative in the ice outside."""
    z, _, x = _grid(settings.shape)
    thickness = settings.shape[0]
    slope = math.tan(math.radians(settings.slope_degrees))
    middle = (thickness - 1) / 2 + slope * (x - (settings.shape[2] - 1) / 2)
    half = (0.5 - settings.margin) * thickness
    return np.asarray(half - np.abs(z - middle))


def _membranes(
    settings: Simulation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Density of the bilayers, and every voxel's distance to the nearest one, both ``z y x``."""
    nearest = np.full(settings.shape, np.inf, dtype=np.float32)
    sides = np.array(settings.shape, dtype=np.float64)
    z, y, x = _grid(settings.shape)
    for number in range(settings.membranes + settings.vesicles):
        through = rng.uniform(0.15, 0.85, size=3) * sides
        if number < settings.membranes:
            radius = rng.uniform(0.5, 1.5) * sides.max()
            azimuth, tilt = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.2)
            direction = np.array([tilt, np.sin(azimuth), np.cos(azimuth)])
            centre = through - radius * direction / np.linalg.norm(direction)
        else:
            radius = rng.uniform(250, 500) / settings.voxel_size
            centre = through
        # A sheet is part of a large sphere with a gentle undulation.
        wave = rng.normal(0, 2 * np.pi / 3000, size=3) * settings.voxel_size
        swing = rng.uniform(0, min(60 / settings.voxel_size, 0.2 * radius))
        distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
        distance += swing * np.sin(wave[0] * z + wave[1] * y + wave[2] * x) - radius
        np.minimum(nearest, np.abs(distance), out=nearest, casting="same_kind")
    width = max(8 / settings.voxel_size, 0.5)
    leaflet = (nearest - _LEAFLET_ANGSTROM / settings.voxel_size) / width
    return (0.6 * np.exp(-0.5 * leaflet**2)).astype(np.float32), nearest


_LEAFLET_ANGSTROM = 20.0
"""From a membrane's middle to its head groups."""


def _cytosol(settings: Simulation, rng: np.random.Generator) -> NDArray[np.float32]:
    """Density ``z y x`` of many small proteins of 60 kDa at random."""
    voxels = 60 * 1210.0 / settings.voxel_size**3  # that one of them fills
    numbers = rng.poisson(settings.cytosol / voxels, size=settings.shape).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(numbers * voxels, 18 / settings.voxel_size))


def _add_beads(
    density: NDArray[np.float32], settings: Simulation, rng: np.random.Generator
) -> None:
    """Add gold beads anywhere in the ice, in place."""
    radius = 50 / settings.voxel_size
    bead = 8 * _soft(radius - np.linalg.norm(_cube(math.ceil(radius) + 2), axis=0))
    for centre in rng.uniform(0, np.array(settings.shape) - 1, size=(settings.beads, 3)):
        plant(density, bead, centre[None], Rotation.identity(1))


def _phantom_blobs(rng: np.random.Generator) -> Floats:
    """(n, 5) Gaussians: centre ``z y x``, sigma (both in radii) and weight."""
    subunits = [  # centre, semi-axes, Gaussians
        ((0.00, 0.00, -0.22), (0.58, 0.56, 0.42), 60),
        ((0.05, 0.04, 0.50), (0.62, 0.34, 0.24), 36),
    ]
    blobs: list[tuple[float, ...]] = []
    for centre, axes, count in subunits:
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        points = directions * rng.uniform(size=(count, 1)) ** (1 / 3) * axes + centre
        sigmas = rng.uniform(0.07, 0.13, size=count)
        blobs += [(*p, s, 0.9) for p, s in zip(points, sigmas, strict=True)]
    # Stalks and a beak make the outline as uneven as a ribosome's.
    for start, end in (
        ((0.45, 0.3, -0.35), (0.75, 0.5, -0.25)),
        ((-0.4, 0.4, -0.2), (-0.62, 0.65, 0.05)),
        ((0.55, 0.05, 0.5), (0.72, -0.25, 0.45)),
    ):
        blobs += [
            (*(np.array(start) + t * (np.array(end) - start)), 0.06, 0.9)
            for t in np.linspace(0, 1, 4)
        ]
    return np.array(blobs)


def _soft(inside: Floats) -> Density:
    """Density of a body from every voxel's depth below its surface, in voxels."""
    return (1 / (1 + np.exp(-np.clip(inside / 0.5, -30, 30)))).astype(np.float32)


def _globule(z: Floats, y: Floats, x: Floats) -> Floats:
    return 0.3 - np.sqrt(z**2 + y**2 + (x / 1.2) ** 2)


def _rod(z: Floats, y: Floats, x: Floats) -> Floats:
    ends = np.maximum(np.abs(x) - 0.5, 0)
    return np.asarray(0.19 - np.sqrt(z**2 + y**2 + ends**2))


def _ring(z: Floats, y: Floats, x: Floats) -> Floats:
    return 0.17 - np.sqrt(np.maximum(np.abs(z) - 0.2, 0) ** 2 + (np.hypot(y, x) - 0.33) ** 2)


def _barrel(z: Floats, y: Floats, x: Floats) -> Floats:
    """Hollow, nearly of the target's size."""
    wall = np.abs(np.sqrt((z / 0.85) ** 2 + y**2 + x**2) - 0.68)
    return np.maximum(0.12 - wall, 0.1 - np.abs(z) - np.maximum(np.hypot(y, x) - 0.68, 0))


def _dumbbell(z: Floats, y: Floats, x: Floats) -> Floats:
    """Nearly of the target's size."""
    balls = 0.36 - np.sqrt(z**2 + y**2 + (np.abs(x) - 0.5) ** 2)
    return np.maximum(balls, 0.14 - np.hypot(z, y) - np.maximum(np.abs(x) - 0.5, 0))


_BUILT_IN: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "globule": _globule,
    "rod": _rod,
    "ring": _ring,
    "barrel": _barrel,
    "dumbbell": _dumbbell,
}
"""Depth below the surface of each distractor, in radii of the target."""


def _built_in(name: str, settings: Simulation) -> Density:
    z, y, x = _cube(math.ceil(settings.radius) + 2) / settings.radius
    return _soft(_BUILT_IN[name](z, y, x) * settings.radius)


def _radius(density: Density) -> float:
    """Radius of the ball of the same radius of gyration, in voxels."""
    squared = (_cube(density.shape[0] // 2) ** 2).sum(axis=0)
    return math.sqrt(5 / 3 * float((squared * density).sum() / density.sum()))


def _place(
    settings: Simulation,
    templates: Mapping[str, Density],
    given: Mapping[str, Floats],
    membranes: NDArray[np.float32],
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Choose the centres of all molecules, (n, 3) ``z y x`` by name, the target's first."""
    depth = np.broadcast_to(_depth(settings), settings.shape)
    bilayer = 1.25 * _LEAFLET_ANGSTROM / settings.voxel_size
    centres: dict[str, Floats] = {}
    radii = {name: _radius(density) for name, density in templates.items()}
    radii[TARGET] = settings.radius
    # Large molecules first: the small ones fill the gaps.
    others = sorted((n for n in templates if n != TARGET), key=lambda n: (-radii[n], n))
    for name in (TARGET, *others):
        if name in given:
            centres[name] = np.asarray(given[name], dtype=np.float64).reshape(-1, 3)
            continue
        radius = radii[name]
        inside = depth >= 0.8 * radius
        for axis in (1, 2):  # The volume cuts molecules at its sides as it does in a cell.
            _clear_faces(inside, axis, math.ceil(0.5 * radius))
        for other, where in centres.items():
            for centre in where:
                _clear_ball(inside, centre, settings.contact * (radius + radii[other]) + 0.5)
        touching = inside & (np.abs(membranes - bilayer - 0.9 * radius) < 0.5)
        inside &= membranes >= bilayer + 0.9 * radius
        spacing = 2 * settings.contact * radius
        if name != TARGET:
            wanted = round(settings.distractors[name] * settings.count)
            centres[name] = _scatter(inside, wanted, spacing=spacing, rng=rng)
            continue
        bound = round(settings.on_membranes * settings.count) if touching.any() else 0
        on = _scatter(touching, bound, spacing=spacing, rng=rng)
        free = settings.count - len(on)
        centres[name] = _scatter(
            inside, free, spacing=spacing, rng=rng, placed=on, clustered=settings.clustered
        )
        if len(centres[name]) < settings.count:
            raise InputError(
                f"{settings.count} particles of radius {settings.radius_angstrom:g} Å do not fit "
                f"in {_by(settings.shape)} voxels of {settings.voxel_size:g} Å: there is room for "
                f"about {len(centres[name])}; ask for fewer or for a larger volume"
            )
    return centres


def _scatter(
    allowed: NDArray[np.bool_],
    count: int,
    *,
    spacing: float,
    rng: np.random.Generator,
    placed: Floats | None = None,
    clustered: float = 0.0,
) -> Floats:
    """Choose up to `count` more points in allowed voxels, no two nearer than `spacing`.

    Random sequential addition: uniform trials first, then every voxel that is left, in random
    order, so that fewer points than asked for means that no more fit where they fell.

    Returns
    -------
    (n, 3) voxel coordinates ``z y x``, those already `placed` first.
    """
    placed = np.empty((0, 3)) if placed is None else placed
    # No more equal balls fit than a close packing of a box that reaches half a spacing further.
    densest = math.sqrt(2) * np.prod((np.array(allowed.shape) + spacing) / spacing)
    total = len(placed) + min(count, math.ceil(densest))
    points = np.empty((total, 3))
    points[: len(placed)] = placed
    number = len(placed)
    free = allowed.copy()
    for point in placed:
        _clear_ball(free, point, spacing - 0.5)

    def is_far(point: Floats) -> bool:
        return bool((((points[:number] - point) ** 2).sum(axis=1) >= spacing**2).all())

    misses = 0
    while number < total and misses < _MISSES:
        if number and rng.uniform() < clustered:
            step = rng.normal(size=3)
            step *= spacing * rng.uniform(1.0, 1.3) / np.linalg.norm(step)
            point = points[int(rng.integers(number))] + step
        else:
            point = rng.uniform(-0.5, np.array(free.shape) - 0.5)
        voxel = np.rint(point).astype(int)
        within = (voxel >= 0).all() and (voxel < free.shape).all()
        if within and free[tuple(voxel)] and is_far(point):
            points[number] = point
            number += 1
            misses = 0
            _clear_ball(free, point, spacing - 0.5)
        else:
            misses += 1
    if number < total:
        for flat in rng.permutation(np.flatnonzero(free)):
            point = np.array(np.unravel_index(flat, free.shape)) + rng.uniform(-0.5, 0.5, size=3)
            if free.flat[flat] and is_far(point):
                points[number] = point
                number += 1
                _clear_ball(free, point, spacing - 0.5)
                if number == total:
                    break
    return points[:number]


_MISSES = 300
"""Trials in vain after which what is left is searched voxel by voxel."""


def _clear_ball(mask: NDArray[np.bool_], centre: Floats, radius: float) -> None:
    """Set the voxels nearer than the radius to False, in place."""
    first = np.maximum(np.ceil(centre - radius), 0).astype(int)
    last = np.minimum(np.floor(centre + radius) + 1, mask.shape).astype(int)
    if (last <= first).any():
        return
    z, y, x = ((np.arange(a, b) - c) ** 2 for a, b, c in zip(first, last, centre, strict=True))
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    mask[box] &= z[:, None, None] + y[:, None] + x >= radius**2


def _clear_faces(mask: NDArray[np.bool_], axis: int, depth: int) -> None:
    """Set the voxels within `depth` of the two faces across the axis to False, in place."""
    planes = np.moveaxis(mask, axis, 0)
    planes[:depth] = False
    planes[len(planes) - depth :] = False


def _image(
    density: NDArray[np.float32],
    target: Density,
    settings: Simulation,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Image a density ``z y x`` with noise of standard deviation 1."""
    amplitude, colour = transfer(settings.shape, settings)
    signal = _filter(density - density.mean(), amplitude)
    noise = _filter(rng.standard_normal(settings.shape, dtype=np.float32), colour)
    scale = math.sqrt(settings.snr / _variance(target, settings))
    return np.asarray(signal * np.float32(scale) + noise / noise.std(), dtype=np.float32)


def _filter(volume: NDArray[np.float32], amplitude: NDArray[np.float32]) -> NDArray[np.float32]:
    spectrum = fft.rfftn(volume)
    spectrum *= amplitude
    return np.asarray(fft.irfftn(spectrum, s=volume.shape), dtype=np.float32)


def _variance(target: Density, settings: Simulation) -> float:
    """Variance of one target's imaged density within its radius."""
    half = target.shape[0] // 2
    box = np.pad(target, half)
    side = box.shape[0]
    imaged = _filter(box, transfer((side, side, side), settings)[0])
    ball = (_cube(side // 2) ** 2).sum(axis=0) <= settings.radius**2
    return float(imaged[ball].var())


def _wavelength(kilovolts: float) -> float:
    """Of an electron, relativistic, in ångström.

    >>> round(_wavelength(300), 4)
    0.0197
    """
    volts = kilovolts * 1e3
    return 12.2643 / math.sqrt(volts * (1 + 0.978476e-6 * volts))

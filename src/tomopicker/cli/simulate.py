"""`tomopicker simulate`: write tomograms with planted particles and the truth about them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tomopicker.errors import InputError


def simulate(
    out: Annotated[Path, typer.Option(help="Folder for the tomograms; new or empty.")],
    shape: Annotated[str, typer.Option(help="Voxels along Z,Y,X.")] = "64,256,256",
    particles: Annotated[
        int | None,
        typer.Option(min=1, help="Particles in each tomogram; as crowded as a cell when left out."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another tomogram.")] = 0,
    tomograms: Annotated[
        int, typer.Option(min=1, help="How many; several differ as those of one session do.")
    ] = 1,
    voxel_size: Annotated[float, typer.Option(help="Ångström.")] = 13.5,
    radius: Annotated[str, typer.Option(help="Of the particle: 150A, 12vx or 15nm.")] = "150A",
    phase_plate: Annotated[
        bool, typer.Option("--phase-plate", help="Imaged with a phase plate: more contrast.")
    ] = False,
) -> None:
    """Simulate tomograms with planted ribosome-like particles, and write where they are."""
    import json
    import math
    import tempfile

    import numpy as np

    from tomopicker import simulate as stage
    from tomopicker.cli.units import parse_length
    from tomopicker.io.names import SIMULATION
    from tomopicker.io.whole import whole_file

    if not (math.isfinite(voxel_size) and voxel_size > 0):
        raise InputError(f"--voxel-size must be a positive number of ångström, got {voxel_size}")
    settings = stage.Simulation.model_validate(
        {
            "shape": _parse_shape(shape),
            "voxel_size": voxel_size,
            "particles": particles,
            "radius_angstrom": parse_length(radius).angstrom(voxel_size),
            **(stage.PHASE_PLATE if phase_plate else {}),
        }
    )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out}: is not an empty folder; choose a new one or empty it")
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)

    counts: dict[str, int] = {}
    used: dict[str, object] = {}
    try:
        # Everything appears at the end or, when one tomogram fails, not at all.
        with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as unfinished:
            for number in range(1, tomograms + 1):
                rng = np.random.default_rng([seed, number])
                this = stage.vary(settings, rng=rng) if tomograms > 1 else settings
                simulated = stage.simulate(this, rng=rng)
                name = f"sim_{number:04d}"
                stage.write_simulation(unfinished, simulated, name)
                counts[name] = len(simulated.particles)
                used[name] = this.model_dump(mode="json")
                typer.echo(f"{name}: {counts[name]} particles", err=True)
            with whole_file(Path(unfinished) / SIMULATION) as path:
                path.write_text(json.dumps({"seed": seed, "tomograms": used}, indent=2) + "\n")
            for file in sorted(Path(unfinished).iterdir()):
                file.replace(out / file.name)
    finally:
        if made and not any(out.iterdir()):
            out.rmdir()

    first = out / "sim_0001"
    typer.echo(
        f"{out} holds {tomograms} simulated tomogram{'s' * (tomograms > 1)} of "
        f"{' x '.join(map(str, settings.shape))} voxels (z y x) of {voxel_size:g} Å, "
        f"with {sum(counts.values())} particles in all:\n"
        f"  {first.name}.mrc     the tomogram, particles dark\n"
        f"  {first.name}.csv     the particles' true centres, x,y,z in voxels\n"
        f"  {SIMULATION}  the settings and the seed\n"
        "Train a picker on it, for instance:\n"
        f"  tomopicker train {first}.mrc --picks {first}.csv --radius {radius} --out run"
    )


def _parse_shape(text: str) -> tuple[int, int, int]:
    """Read three numbers of voxels.

    >>> _parse_shape("64,256,128")
    (64, 256, 128)
    """
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--shape must be three numbers of voxels Z,Y,X as 64,256,256, got {text}")
    z, y, x = (int(part) for part in parts)
    return z, y, x

"""What `tomopicker pick` writes of one tomogram, and what of it is already there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tomopicker.errors import InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tomopicker.io.record import Failure, Origin, Record
    from tomopicker.picks import Picked
    from tomopicker.types import Tomogram

_LISTS = 8e6
"""Bytes that a tomogram's lists and picture take, with much to spare."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files of one tomogram.

    A mark lies beside them from before the first is written until after the record, which is the
    last. So files without a record are a stopped command's where the mark is, to be written
    again, and otherwise somebody's, to be left alone.
    """

    out: Path
    name: str
    formats: Sequence[str]
    with_mask: bool
    with_scores: bool

    @property
    def csv(self) -> Path:
        return self.out / f"{self.name}.csv"

    @property
    def candidates(self) -> Path:
        from tomopicker.io.candidates import candidates_path

        return candidates_path(self.out, self.name)

    @property
    def record(self) -> Path:
        from tomopicker.io.record import record_path

        return record_path(self.out, self.name)

    @property
    def failure(self) -> Path:
        from tomopicker.io.record import failure_path

        return failure_path(self.out, self.name)

    @property
    def picture(self) -> Path:
        return self.out / f"{self.name}.png"

    @property
    def scores(self) -> Path | None:
        return self.out / f"{self.name}_scores.mrc" if self.with_scores else None

    @property
    def mask(self) -> Path | None:
        return self.out / f"{self.name}_mask.mrc" if self.with_mask else None

    @property
    def others(self) -> dict[str, Path]:
        """Picks in other formats than CSV, each in a folder of its own."""
        from tomopicker.io.particles import place_of

        return {
            name: self.out / name / place_of(name, self.name)
            for name in self.formats
            if name != "csv"
        }

    @property
    def mark(self) -> Path:
        """Lies there while the others are written."""
        return self.out / f".{self.name}.unfinished"

    def all(self) -> list[Path]:
        """All of them but the record and the mark."""
        some = [self.csv, self.candidates, self.picture, *self.others.values()]
        return some + [path for path in (self.scores, self.mask) if path is not None]

    def folders(self) -> set[Path]:
        """Folders that something is written into."""
        return {path.parent for path in (self.record, self.failure, *self.all())}

    def recorded(self) -> Record | None:
        """How the picks that are there were made; None without a record that can be read."""
        from tomopicker.io.record import read_record

        try:
            return read_record(self.record) if self.record.is_file() else None
        except InputError:
            return None

    def whole(self, origin: Origin) -> Record | None:
        """Return the record of picks of this origin, if they are all there."""
        record = self.recorded()
        if record is None or record.origin != origin:
            return None
        return record if all(path.exists() for path in self.all()) else None

    def stranger(self) -> Path | None:
        """Find a file that is in the way and of which nothing tells that it is of this command."""
        if self.mark.exists() or self.recorded() is not None:
            return None
        there = [path for path in (self.record, *self.all()) if path.exists()]
        # Again, because another process may have written the record in between.
        return there[0] if there and self.recorded() is None else None

    def begin(self, origin: Origin) -> None:
        """Mark the files as being written; from now the old record, if it is another's, is gone."""
        from tomopicker.io.whole import whole_file

        with whole_file(self.mark, overwrite=True) as temporary:
            temporary.touch()
        record = self.recorded()
        if record is None or record.origin != origin:
            self.record.unlink(missing_ok=True)

    def write_scores(self, scores: NDArray[np.float32], voxel_size: float) -> None:
        """Write the score volume where it is wanted.

        Parameters
        ----------
        scores
            ``z y x``, -inf where there is none.
        voxel_size
            Ångström.
        """
        import numpy as np

        from tomopicker.io.tomograms import write_volume

        if self.scores is None:
            return
        # Viewers take the grey range from the header, which an infinite voxel would spoil.
        known = np.isfinite(scores)
        if not known.all():
            scores = np.where(known, scores, scores.min(where=known, initial=0))
        write_volume(self.scores, scores, voxel_size=voxel_size, overwrite=True)

    def write(
        self,
        tomogram: Tomogram,
        picked: Picked,
        record: Record,
        *,
        radius_angstrom: float,
    ) -> None:
        """Write a tomogram's picks and their picture, and the record last."""
        from tomopicker.io.particles import write_particles
        from tomopicker.io.record import write_record
        from tomopicker.io.tomograms import write_volume

        if self.mask is not None and tomogram.mask is not None:
            voxel_size = tomogram.voxel_size * tomogram.shape[0] / tomogram.mask.shape[0]
            write_volume(self.mask, tomogram.mask, voxel_size=voxel_size, overwrite=True)
        # The slowest first, so that a process that is killed seldom leaves lists without a record.
        self._draw(tomogram, picked, radius_angstrom)
        for name, path in self.others.items():
            write_particles(
                path,
                picked.particles,
                format=name,
                shape=tomogram.shape,
                pixel_size=record.origin.pixel_size,
                extent=tomogram.extent,
                radius=radius_angstrom,
                overwrite=True,
            )
        self._write_candidates(picked)
        table = replace(picked.particles, tomograms=())
        write_particles(self.csv, table, format="csv", overwrite=True)
        write_record(self.record, record, overwrite=True)
        self.tidy()

    def tidy(self) -> None:
        """Remove what does not hold any more once the record is there."""
        self.failure.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)

    def write_failure(self, failure: Failure) -> None:
        """Write why there are no picks."""
        from tomopicker.io.record import write_record

        write_record(self.failure, failure, overwrite=True)

    def size(self, tomogram: Tomogram, scored_voxel_size: float) -> float:
        """Estimate how many bytes all of them take."""
        voxels = tomogram.data.size
        scores = 4 * voxels * (tomogram.voxel_size / scored_voxel_size) ** 3
        mask = 0 if tomogram.mask is None else tomogram.mask.size
        return _LISTS + (scores if self.with_scores else 0) + (mask if self.with_mask else 0)

    def _draw(self, tomogram: Tomogram, picked: Picked, radius_angstrom: float) -> None:
        from tomopicker.labels import voxel_radius
        from tomopicker.report import PickList, save_figure, slice_figure

        # The picture shows the tomogram as it is, not as it was scored.
        radius = voxel_radius(radius_angstrom, tomogram.voxel_size)
        figure = slice_figure(
            tomogram.data,
            [PickList(name="picks", voxels=picked.particles.voxels)],
            slice_index=None,
            radius=radius,
            voxel_size=tomogram.voxel_size,
            # Averaged and smoothed until a particle shows at the noise of a raw reconstruction.
            thickness=max(round(0.7 * radius), 1),
            smoothing=radius / 7,
            title=tomogram.name,
        )
        save_figure(figure, self.picture, force=True)

    def _write_candidates(self, picked: Picked) -> None:
        import numpy as np

        from tomopicker.io.candidates import Candidates, write_candidates

        among = np.arange(len(picked.candidates)) < len(picked.particles)
        candidates = Candidates(particles=picked.candidates, picked=among)
        write_candidates(self.candidates, candidates, overwrite=True)


def check_space(folder: Path, size: float, tomograms: int) -> str | None:
    """Compare what is free on a disk with what is going to be written.

    Parameters
    ----------
    folder
        Of the picks; it need not be there yet.
    size
        Bytes that one tomogram's files take.
    tomograms
        How many are still to be written.

    Returns
    -------
    str or None
        A warning where the space may do for some but not for all.

    Raises
    ------
    OutputError
        When it does not do for one.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    room = int(free // size)
    if not room:
        raise OutputError(
            f"{folder}: {_bytes(free)} are free, but a tomogram's files take up to "
            f"{_bytes(size)}: free some space, leave out --scores, or give an --out on another disk"
        )
    if room >= tomograms:
        return None
    return (
        f"{folder}: {_bytes(free)} are free, which may do for {room} of {tomograms} tomograms of "
        f"{_bytes(size)}; free some space in time, or leave out --scores"
    )


def _bytes(number: float) -> str:
    """Write a number of bytes for people.

    >>> _bytes(8e6), _bytes(1.25e9)
    ('8 MB', '1.2 GB')
    """
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"

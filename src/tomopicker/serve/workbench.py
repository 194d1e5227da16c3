"""Workbench: a session with what is worked out of it, and what the page is told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tomopicker.errors import InputError
from tomopicker.serve.exports import ExportWish, export, exported_files, writable_formats
from tomopicker.serve.proposals import EXCLUSION, FEWEST, Proposer, Wish
from tomopicker.serve.rounds import PickWish, Rounds, TrainWish
from tomopicker.serve.slices import Axis, Look, Slices
from tomopicker.verdicts import Candidate, Order, Pool, counts, precision, queue, queue_across

if TYPE_CHECKING:
    from tomopicker.serve.notes import Action
    from tomopicker.serve.session import Session
    from tomopicker.types import Tomogram

_LONGEST_QUEUE = 200


class LookWish(BaseModel):
    """The slice that is asked for, as the address says it."""

    model_config = ConfigDict(extra="forbid")

    axis: Axis
    at: int
    thickness: Annotated[int, Field(ge=1, le=100)] = 1
    smoothing: Annotated[float, Field(ge=0, le=10)] = 0.0
    contrast: Annotated[float, Field(gt=0, le=100)] = 1.0
    brightness: Annotated[float, Field(ge=-10, le=10)] = 0.0


class Workbench:
    """A session with what is worked out of it, and the answers to the page."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rounds = Rounds(session)
        self._proposer = Proposer()
        self._slices: dict[int, Slices] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Stop what is at work, and let go of the folder."""
        self._proposer.close()
        for slices in self._slices.values():
            slices.close()
        self.rounds.close()
        self.session.close()

    def describe(self) -> dict[str, Any]:
        """Tell of the session as a whole, and of what is at work."""
        session = self.session
        notes = session.notes
        clicked: dict[str, int] = {}
        for particle in list(notes.particles.values()):
            clicked[particle.tomogram] = clicked.get(particle.tomogram, 0) + 1
        return {
            "folder": str(session.folder.absolute()),
            "who": session.who,
            "revision": session.revision + self._proposer.revision,
            "diameter": session.settings.diameter,
            "can_undo": notes.can_undo,
            "can_redo": notes.can_redo,
            "tomograms": [
                {"name": source.name, "particles": clicked.get(source.name, 0)}
                for source in session.settings.tomograms
            ],
            "rounds": [
                {
                    "number": one.number,
                    "ready": one.is_ready,
                    "whole": one.is_whole,
                    "elsewhere": not (one.folder / "command.json").is_file(),
                    "picked": one.picked(),
                }
                for one in self.rounds.all()
            ],
            "job": self._job(),
            "formats": writable_formats(),
            "exports": sorted(exported_files(session)),
            "fewest": FEWEST,
            "rejected": counts(notes.verdicts)["reject"],
        }

    def tomogram(self, number: int) -> dict[str, Any]:
        """Tell of a tomogram and what is known in it."""
        tomogram = self.session.tomogram(number)
        name = tomogram.name
        state, proposals, why = self._proposer.state(name)
        proposed = self._proposed(tomogram)
        verdicts = [one for one in self.session.notes.verdicts if one.candidate.tomogram == name]
        return {
            "name": name,
            "shape": tomogram.shape,
            "voxel_size": tomogram.voxel_size,
            "particles": [
                {
                    "number": one.number,
                    "at": one.voxel,
                    "from": "click" if one.of is None else "verdict",
                }
                for one in self.session.notes.of(name)
            ],
            "rejected": [one.candidate.voxel for one in verdicts if one.answer == "reject"],
            "proposals": {
                "state": state,
                "why": why,
                "clicks": 0 if proposals is None else proposals.clicks,
                "suggested": 0
                if proposals is None
                else sum(one.score >= proposals.least for one in proposed),
                "at": _shown(proposed),
            },
        }

    def look(self, number: int, wish: LookWish) -> bytes:
        """Draw a slice."""
        with self._lock:
            if number not in self._slices:
                # Two at most: each may hold a copy of a quarter of its file or more.
                while len(self._slices) > 1:
                    self._slices.pop(next(iter(self._slices))).close()
                self._slices[number] = Slices(self.session.tomogram(number))
            slices = self._slices[number]
        look = Look(
            thickness=wish.thickness,
            smoothing=wish.smoothing,
            contrast=wish.contrast,
            brightness=wish.brightness,
        )
        return slices.picture(wish.axis, wish.at, look)

    def act(self, what: Action | Literal["undo", "redo"]) -> dict[str, Any]:
        """Do what the page says, and tell what changed, so that it can show it."""
        changed = self.session.act(what)
        if changed.do == "add" and self.session.settings.diameter is not None:
            self._prepare(changed.tomogram)
        return {
            "did": changed.do,
            "tomogram": self.session.number_of(changed.tomogram),
            "at": changed.places[0] if changed.places else None,
            "number": self.session.notes.next_number - 1,
        }

    def set_diameter(self, diameter: float) -> dict[str, Any]:
        """Set the particle's size; what was proposed for another one is dropped."""
        self.session.set_diameter(diameter)
        self._proposer.forget()
        return {}

    def propose(self, number: int) -> dict[str, Any]:
        """Start making proposals in a tomogram, from its clicks or else those of another."""
        session = self.session
        tomogram = session.tomogram(number)
        name = tomogram.name
        radius = session.radius
        clicks = {source.name: session.voxels(source.name) for source in session.settings.tomograms}
        teacher = name if len(clicks[name]) >= FEWEST else max(clicks, key=lambda n: len(clicks[n]))
        if len(clicks[teacher]) < FEWEST:
            raise InputError(
                f"click {FEWEST} particles of one kind first; there are {len(clicks[teacher])}"
            )
        known = [*clicks[name], *session.rejected(name)]
        self._proposer.ask(
            Wish(
                tomogram=tomogram,
                teacher=session.tomogram(session.number_of(teacher)),
                teacher_clicks=clicks[teacher],
                clicks=clicks[name] if len(clicks[name]) else clicks[teacher][:0],
                known=np.array(known, dtype=np.float64).reshape(-1, 3),
                radius=radius,
            )
        )
        return {}

    def review(
        self, number: int, order: Order, round_number: int | None, *, only_here: bool
    ) -> dict[str, Any]:
        """Queue of what waits for a verdict: a round's candidates, or a tomogram's proposals.

        A round's are those of all tomograms that it has picked together, so that what helps the
        list most comes first wherever it is; `only_here` keeps to one tomogram.
        """
        session = self.session
        here = session.tomogram(number)
        if round_number is None:
            candidates = {number: self._proposed(here)}
        else:
            numbers = [number] if only_here else range(len(session.settings.tomograms))
            candidates = {one: self._candidates(round_number, one) for one in numbers}
        pools = [self._pool(one, found) for one, found in candidates.items() if found]
        verdicts = session.notes.verdicts
        waiting = queue_across(pools, verdicts, order=order)
        places = {session.settings.tomograms[one].name: one for one in candidates}
        said = [one for one in verdicts if one.candidate.tomogram in places]
        # A verdict may have moved the cut-off: what is no pick any more is no sample of them.
        listed = {one for pool in pools for one in pool.candidates if one.picked}
        fair = [one for one in said if one.order == "random" and one.candidate in listed]
        sample = counts(fair)
        share, low, high = precision(sample["accept"], sample["reject"])
        return {
            "left": len(waiting),
            "picked": sum(one.picked for pool in pools for one in pool.candidates),
            "candidates": sum(len(pool.candidates) for pool in pools),
            "counts": counts(said),
            "queue": _shown(waiting[:_LONGEST_QUEUE]),
            "tomograms": [places[one.tomogram] for one in waiting[:_LONGEST_QUEUE]],
            "picks": _shown([one for one in candidates.get(number, []) if one.picked]),
            "sample": {
                "count": sample["accept"] + sample["reject"],
                "share": share,
                "low": low,
                "high": high,
            },
        }

    def start(self, wish: TrainWish | PickWish) -> dict[str, Any]:
        """Start training or picking."""
        job = self.rounds.train(wish) if wish.do == "train" else self.rounds.pick(wish)
        return {"round": job.round.number}

    def cancel(self) -> dict[str, Any]:
        """Stop what is at work."""
        self.rounds.cancel()
        return {}

    def export(self, wish: ExportWish) -> dict[str, Any]:
        """Write lists."""
        folder = self.session.folder / "exports"
        written = export(self.session, self.rounds, wish)
        return {
            "folder": str(folder.absolute()),
            "files": [
                {
                    "name": one.path.relative_to(folder).as_posix(),
                    "tomogram": one.tomogram,
                    "count": one.count,
                }
                for one in written
            ],
        }

    def _job(self) -> dict[str, Any] | None:
        """What is or was at work."""
        orphan = self.rounds.orphan()
        if orphan is not None:
            return {
                "kind": "train",
                "round": 0,
                "state": "running",
                "share": None,
                "message": f"Process {orphan} of an earlier server is still at work …",
                "seconds": None,
                "log": "",
            }
        job = self.rounds.job
        if job is None:
            return None
        return {
            "kind": job.kind,
            "round": job.round.number,
            "state": job.state,
            "share": job.share(),
            "message": job.message(),
            "seconds": job.seconds,
            "log": job.tail(),
        }

    def _prepare(self, name: str) -> None:
        """Read a tomogram ahead, while the first particles are clicked."""
        tomogram = self.session.tomogram(self.session.number_of(name))
        clicks = self.session.voxels(name)
        if len(clicks) < FEWEST:
            self._proposer.ask(
                Wish(
                    tomogram=tomogram,
                    teacher=tomogram,
                    teacher_clicks=clicks,
                    clicks=clicks,
                    known=clicks,
                    radius=self.session.radius,
                    only_prepare=True,
                )
            )

    def _candidates(self, round_number: int, number: int) -> list[Candidate]:
        """What a round found in a tomogram."""
        name = self.session.settings.tomograms[number].name
        return self.rounds.candidates(round_number, name)

    def _pool(self, number: int, candidates: list[Candidate]) -> Pool:
        """What was found in a tomogram, and what is known there."""
        session = self.session
        tomogram = session.tomogram(number)
        return Pool(
            candidates=candidates,
            radius=session.radius / tomogram.voxel_size,
            known=[(z, y, x) for z, y, x in session.voxels(tomogram.name).tolist()],
        )

    def _proposed(self, tomogram: Tomogram) -> list[Candidate]:
        """The proposals in a tomogram that are still open."""
        _, proposals, _ = self._proposer.state(tomogram.name)
        if proposals is None or self.session.settings.diameter is None:
            return []
        model = f"matched filter of {proposals.clicks} clicks"
        candidates = [
            Candidate(tomogram=tomogram.name, voxel=(z, y, x), score=score, model=model)
            for (z, y, x), score in zip(
                proposals.voxels.tolist(), proposals.scores.tolist(), strict=True
            )
        ]
        name = tomogram.name
        known = [*self.session.voxels(name).tolist(), *self.session.rejected(name).tolist()]
        return queue(
            candidates,
            (),
            radius=2 * EXCLUSION * self.session.radius / tomogram.voxel_size,
            order="best",
            known=[(z, y, x) for z, y, x in known],
        )


def _shown(candidates: list[Candidate]) -> list[dict[str, Any]]:
    """Candidates as the page shows them, and gives them back with a verdict."""
    return [
        {
            "at": one.voxel,
            "score": one.score,
            "probability": one.probability,
            "picked": one.picked,
            "model": one.model,
        }
        for one in candidates
    ]

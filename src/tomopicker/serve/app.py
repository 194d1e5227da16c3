"""App: what the page asks of the session, as JSON and pictures."""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tomopicker.errors import InputError
from tomopicker.serve.exports import ExportWish, export, exported_files, writable_formats
from tomopicker.serve.guard import Guard
from tomopicker.serve.notes import ACTION, Voxel
from tomopicker.serve.proposals import FEWEST, Proposer, Wish
from tomopicker.serve.rounds import PickWish, Rounds, TrainWish, takes_negatives
from tomopicker.serve.slices import Axis, Look, NotYetError, Slices
from tomopicker.verdicts import Candidate, Order, counts, precision, queue

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from tomopicker.serve.session import Session
    from tomopicker.types import Tomogram

Body = TypeVar("Body")

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

_LONGEST_QUEUE = 200


class DiameterWish(BaseModel):
    """How large the particle is."""

    model_config = ConfigDict(extra="forbid")

    diameter: Annotated[float, Field(gt=0, le=10_000)]


class Undo(BaseModel):
    """Take back, or do again."""

    model_config = ConfigDict(extra="forbid")

    do: Literal["undo", "redo"]


class LookWish(BaseModel):
    """The slice that is asked for, as the address says it."""

    model_config = ConfigDict(extra="forbid")

    axis: Axis
    at: int
    thickness: Annotated[int, Field(ge=1, le=100)] = 1
    smoothing: Annotated[float, Field(ge=0, le=10)] = 0.0
    contrast: Annotated[float, Field(gt=0, le=100)] = 1.0
    brightness: Annotated[float, Field(ge=-10, le=10)] = 0.0


class ReviewWish(BaseModel):
    """The queue that is asked for."""

    model_config = ConfigDict(extra="forbid")

    order: Order = "teach"
    round: int | None = None
    """Whose candidates; None for the proposals."""


_DIAMETER: TypeAdapter[DiameterWish] = TypeAdapter(DiameterWish)
_UNDO: TypeAdapter[Undo] = TypeAdapter(Undo)
_LOOK: TypeAdapter[LookWish] = TypeAdapter(LookWish)
_REVIEW: TypeAdapter[ReviewWish] = TypeAdapter(ReviewWish)
_EXPORT: TypeAdapter[ExportWish] = TypeAdapter(ExportWish)
_JOB: TypeAdapter[TrainWish | PickWish] = TypeAdapter(
    Annotated[TrainWish | PickWish, Field(discriminator="do")]
)


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
        self.rounds.close()
        self.session.close()

    def describe(self) -> dict[str, Any]:
        """Tell of the session as a whole, and of what is at work."""
        session = self.session
        notes = session.notes
        clicked: dict[str, int] = {}
        for particle in list(notes.particles.values()):
            clicked[particle.tomogram] = clicked.get(particle.tomogram, 0) + 1
        job = self.rounds.job
        running = None
        if job is not None:
            running = {
                "kind": job.kind,
                "round": job.round.number,
                "state": job.state,
                "share": job.share(),
                "message": job.message(),
                "seconds": job.seconds,
                "log": job.tail(),
            }
        orphan = self.rounds.orphan()
        if orphan is not None:
            running = {
                "kind": "train",
                "round": 0,
                "state": "running",
                "share": None,
                "message": f"Process {orphan} of an earlier server is still at work …",
                "seconds": None,
                "log": "",
            }
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
            "job": running,
            "formats": writable_formats(),
            "exports": sorted(exported_files(session)),
            "fewest": FEWEST,
            "rejected": counts(notes.verdicts)["reject"],
            "takes_negatives": takes_negatives(),
        }

    def tomogram(self, number: int) -> dict[str, Any]:
        """Tell of a tomogram and what is known in it."""
        tomogram = self.session.tomogram(number)
        name = tomogram.name
        state, proposals, why = self._proposer.state(name)
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
                "suggested": 0 if proposals is None else proposals.suggested,
                "at": [] if proposals is None else _shown(self._proposed(tomogram)),
            },
        }

    def look(self, number: int, wish: LookWish) -> bytes:
        """Draw a slice."""
        with self._lock:
            if number not in self._slices:
                # One at a time: each may hold a copy of an eighth to a half of its file.
                self._slices.clear()
                self._slices[number] = Slices(self.session.tomogram(number))
            slices = self._slices[number]
        look = Look(
            thickness=wish.thickness,
            smoothing=wish.smoothing,
            contrast=wish.contrast,
            brightness=wish.brightness,
        )
        return slices.picture(wish.axis, wish.at, look)

    def act(self, body: bytes) -> dict[str, Any]:
        """Do what the page says, and tell what changed, so that it can show it."""
        try:
            what: Any = _read(_UNDO, body).do
        except InputError:
            what = _read(ACTION, body)
        changed = self.session.act(what).what
        if isinstance(changed, str):
            raise AssertionError("an undone entry is an action")
        place = _place(changed)
        if changed.do == "add" and self.session.settings.diameter is not None:
            self._prepare(changed.tomogram)
        return {
            "did": changed.do,
            "tomogram": self.session.number_of(changed.tomogram),
            "at": place,
            "number": self.session.notes.next_number - 1,
        }

    def set_diameter(self, wish: DiameterWish) -> dict[str, Any]:
        """Set the particle's size; what was proposed for another one is dropped."""
        self.session.set_diameter(wish.diameter)
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
                known=_table(known),
                radius=radius,
            )
        )
        return {}

    def review(self, number: int, order: Order, round_number: int | None) -> dict[str, Any]:
        """Queue of what waits for a verdict: a round's candidates, or the proposals."""
        session = self.session
        tomogram = session.tomogram(number)
        verdicts = session.notes.verdicts
        if round_number is None:
            candidates = self._proposed(tomogram)
        else:
            candidates = self.rounds.candidates(round_number, tomogram.name)
        known = [(z, y, x) for z, y, x in session.voxels(tomogram.name).tolist()]
        waiting = queue(
            candidates,
            verdicts,
            radius=session.radius / tomogram.voxel_size,
            order=order,
            known=known,
        )
        here = [one for one in verdicts if one.candidate.tomogram == tomogram.name]
        fair = [
            one
            for one in here
            if one.order == "random" and candidates and one.candidate.model == candidates[0].model
        ]
        sample = counts(fair)
        share, low, high = precision(sample["accept"], sample["reject"])
        return {
            "left": len(waiting),
            "picked": sum(one.picked for one in candidates),
            "candidates": len(candidates),
            "counts": counts(here),
            "queue": _shown(waiting[:_LONGEST_QUEUE]),
            "picks": _shown([one for one in candidates if one.picked]),
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
            radius=2 * 0.8 * self.session.radius / tomogram.voxel_size,
            order="best",
            known=[(z, y, x) for z, y, x in known],
        )


def make_app(workbench: Workbench, *, token: str) -> ASGIApp:
    """Join the answers to addresses, behind the guard."""

    async def page(_: Request) -> Response:
        return _static("index.html")

    async def static(request: Request) -> Response:
        return _static(request.path_params["name"])

    async def describe(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(workbench.describe))

    async def tomogram(request: Request) -> Response:
        number = request.path_params["number"]
        return JSONResponse(await run_in_threadpool(workbench.tomogram, number))

    async def look(request: Request) -> Response:
        wish = _validate(_LOOK, dict(request.query_params))
        number = request.path_params["number"]
        picture = await run_in_threadpool(workbench.look, number, wish)
        return Response(picture, media_type="image/jpeg")

    async def act(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(workbench.act, await _body(request)))

    async def diameter(request: Request) -> Response:
        wish = _read(_DIAMETER, await _body(request))
        return JSONResponse(await run_in_threadpool(workbench.set_diameter, wish))

    async def propose(request: Request) -> Response:
        number = request.path_params["number"]
        return JSONResponse(await run_in_threadpool(workbench.propose, number))

    async def review(request: Request) -> Response:
        number = request.path_params["number"]
        wish = _validate(_REVIEW, dict(request.query_params))
        return JSONResponse(
            await run_in_threadpool(workbench.review, number, wish.order, wish.round)
        )

    async def job(request: Request) -> Response:
        if request.method == "DELETE":
            return JSONResponse(await run_in_threadpool(workbench.cancel))
        wish = _read(_JOB, await _body(request))
        return JSONResponse(await run_in_threadpool(workbench.start, wish))

    async def exports(request: Request) -> Response:
        wish = _read(_EXPORT, await _body(request))
        return JSONResponse(await run_in_threadpool(workbench.export, wish))

    async def download(request: Request) -> Response:
        name = request.path_params["name"]
        known = await run_in_threadpool(exported_files, workbench.session)
        if name not in known:
            raise HTTPException(404, f"there is no export called {name}")
        return FileResponse(
            known[name], filename=known[name].name, media_type="application/octet-stream"
        )

    return Guard(
        Starlette(
            routes=[
                Route("/", page),
                Route("/static/{name}", static),
                Route("/api/session", describe),
                Route("/api/tomograms/{number:int}", tomogram),
                Route("/api/tomograms/{number:int}/slice", look),
                Route("/api/tomograms/{number:int}/propose", propose, methods=["POST"]),
                Route("/api/tomograms/{number:int}/review", review),
                Route("/api/act", act, methods=["POST"]),
                Route("/api/diameter", diameter, methods=["POST"]),
                Route("/api/job", job, methods=["POST", "DELETE"]),
                Route("/api/exports", exports, methods=["POST"]),
                Route("/exports/{name:path}", download),
            ],
            exception_handlers={
                InputError: _input_error,
                NotYetError: _not_yet,
                HTTPException: _http_error,
                OSError: _system_error,
                Exception: _fault,
            },
        ),
        token=token,
    )


def _static(name: str) -> Response:
    """A file of the page, by its name alone: `STATIC` is all that there is."""
    if name not in STATIC:
        raise HTTPException(404, f"the page has no part called {name}")
    content = (files("tomopicker.serve") / "static" / name).read_bytes()
    return Response(content, media_type=_TYPES[name.rpartition(".")[2]])


STATIC = (
    *("index.html", "style.css", "main.js", "api.js", "view.js", "state.js"),
    *("particles.js", "training.js", "review.js", "exporting.js", "icon.svg"),
)
"""Parts of the page."""


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "the workbench takes JSON only")
    return await request.body()


def _read(adapter: TypeAdapter[Body], body: bytes) -> Body:
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        raise InputError(_told(error)) from error


def _validate(adapter: TypeAdapter[Body], values: dict[str, str]) -> Body:
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        raise InputError(_told(error)) from error


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the request"
    return f"{where}: {first['msg']}"


async def _input_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)


async def _not_yet(_: Request, error: Exception) -> Response:
    share = error.share if isinstance(error, NotYetError) else 0.0
    return JSONResponse({"share": share}, status_code=503, headers={"retry-after": "1"})


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else str(error)
    return JSONResponse({"error": detail}, status_code=status)


async def _system_error(_: Request, error: Exception) -> Response:
    return JSONResponse(
        {"error": f"the system refuses ({error}): check the disk and the permissions"},
        status_code=500,
    )


async def _fault(_: Request, error: Exception) -> Response:
    return JSONResponse(
        {
            "error": f"this is a fault in TomoPicker, not in your data ({type(error).__name__}): "
            "please report it with what the terminal shows"
        },
        status_code=500,
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


def _place(action: Any) -> Voxel | None:
    """Where an action was, for the page to go there."""
    match action.do:
        case "add":
            return action.at[0]  # type: ignore[no-any-return]
        case "move":
            return action.at  # type: ignore[no-any-return]
        case "judge":
            return action.shown[0].at  # type: ignore[no-any-return]
    return None


def _table(places: list[Any]) -> Any:
    import numpy as np

    return np.array(places, dtype=np.float64).reshape(-1, 3)

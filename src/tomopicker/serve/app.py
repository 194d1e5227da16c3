"""App: what the page asks of the session, as JSON and pictures."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tomopicker.errors import InputError
from tomopicker.serve.exports import ExportWish, exported_files
from tomopicker.serve.guard import Guard
from tomopicker.serve.notes import Action
from tomopicker.serve.rounds import PickWish, TrainWish
from tomopicker.serve.slices import NotYetError
from tomopicker.serve.workbench import LookWish, Workbench
from tomopicker.verdicts import Order

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

Body = TypeVar("Body")

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class DiameterWish(BaseModel):
    """How large the particle is."""

    model_config = ConfigDict(extra="forbid")

    diameter: Annotated[float, Field(gt=0, le=10_000)]


class Undo(BaseModel):
    """Take back, or do again."""

    model_config = ConfigDict(extra="forbid")

    do: Literal["undo", "redo"]


class ReviewWish(BaseModel):
    """The queue that is asked for."""

    model_config = ConfigDict(extra="forbid")

    order: Order = "teach"
    round: int | None = None
    """Whose candidates; None for the proposals."""
    only_here: bool = False
    """Whether to keep to this tomogram."""


_DIAMETER: TypeAdapter[DiameterWish] = TypeAdapter(DiameterWish)
_ACT: TypeAdapter[Action | Undo] = TypeAdapter(Annotated[Action | Undo, Field(discriminator="do")])
_LOOK: TypeAdapter[LookWish] = TypeAdapter(LookWish)
_REVIEW: TypeAdapter[ReviewWish] = TypeAdapter(ReviewWish)
_EXPORT: TypeAdapter[ExportWish] = TypeAdapter(ExportWish)
_JOB: TypeAdapter[TrainWish | PickWish] = TypeAdapter(
    Annotated[TrainWish | PickWish, Field(discriminator="do")]
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
        wish = _read(_ACT, await _body(request))
        what = wish.do if isinstance(wish, Undo) else wish
        return JSONResponse(await run_in_threadpool(workbench.act, what))

    async def diameter(request: Request) -> Response:
        wish = _read(_DIAMETER, await _body(request))
        return JSONResponse(await run_in_threadpool(workbench.set_diameter, wish.diameter))

    async def propose(request: Request) -> Response:
        number = request.path_params["number"]
        return JSONResponse(await run_in_threadpool(workbench.propose, number))

    async def review(request: Request) -> Response:
        number = request.path_params["number"]
        wish = _validate(_REVIEW, dict(request.query_params))

        def ask() -> dict[str, Any]:
            return workbench.review(number, wish.order, wish.round, only_here=wish.only_here)

        return JSONResponse(await run_in_threadpool(ask))

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

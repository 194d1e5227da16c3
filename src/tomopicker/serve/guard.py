"""Guard: who may talk to the workbench, and what a browser may do with what it answers."""

from __future__ import annotations

import hmac
import json
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names by which a browser reaches this machine, or its end of an ssh tunnel, at any port."""

_LARGEST = 4 << 20
"""Bytes that a request may hold: thousands of particles."""

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token() -> str:
    """Make a token that nobody can guess."""
    return secrets.token_urlsafe(24)


class Guard:
    """Lets through what comes by the token's path, under a name of this machine.

    The token is the first part of every path, so that links, scripts and styles of the page carry
    it by themselves, and no cookie has to: cookies are shared between the ports of a machine.
    """

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refuse(scope["path"], headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        path = scope["path"].removeprefix(f"/{self._token}")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, guarded)

    def _refuse(self, path: str, headers: dict[bytes, str]) -> tuple[int, str] | None:
        """Status and reason where a request is refused."""
        # A page elsewhere can make its own name point here (DNS rebinding), but not change this.
        if _host(headers.get(b"host", "")) not in HOSTS:
            return 421, "open the workbench as 127.0.0.1 or localhost, as tomopicker serve printed"
        origin = headers.get(b"origin")
        if origin is not None and _host(urlsplit(origin).netloc) not in HOSTS:
            return 403, "another page may not use the workbench"
        token, slash, _ = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return 403, "open the whole address that tomopicker serve printed, with its token"
        if not slash:
            return 404, "open the address that tomopicker serve printed, with the slash at its end"
        length = headers.get(b"content-length", "0")
        if b"transfer-encoding" in headers or not length.isdecimal():
            return 411, "say how long the request is"
        if int(length) > _LARGEST:
            return 413, "that is more than the workbench takes at once"
        return None


def _host(netloc: str) -> str:
    """Name without a port; empty where there is none to understand."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = {**_HEADERS, "content-type": "application/json", "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})

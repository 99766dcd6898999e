"""The console's page: files that hold no data, the same for everybody."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import resources
from typing import NamedTuple

from aiohttp import web

from perdure.sidecar.errors import Refusal
from perdure.sidecar.routes import Route

TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
#: The page may load and ask nothing but its own origin, runs no inline code, and cannot be framed. With trusted types
#: no script can turn text into markup either.
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Asked each time, answered with 304: another release is seen at once.
    "Cache-Control": "no-cache",
}
INDEX = "/"
FILE = "/console/static/{file}"


class File(NamedTuple):
    body: bytes
    type: str
    tag: str


@cache
def files() -> dict[str, File]:
    """Every file by its name."""
    found: dict[str, File] = {}
    for entry in resources.files("perdure.console").joinpath("static").iterdir():
        kind = TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            body = entry.read_bytes()
            found[entry.name] = File(body, kind, sha256(body).hexdigest()[:32])
    return found


class Files:
    def routes(self) -> list[Route]:
        return [
            Route("GET", INDEX, self.index, "ERR_INTERNAL"),
            Route("GET", FILE, self.file, "ERR_INTERNAL"),
        ]

    async def index(self, request: web.Request) -> web.Response:
        return _answer(request, files()["index.html"])

    async def file(self, request: web.Request) -> web.Response:
        found = files().get(request.match_info["file"])
        if found is None:
            raise Refusal(404, "ERR_NOT_FOUND", "the console has no such file")
        return _answer(request, found)


def _answer(request: web.Request, file: File) -> web.Response:
    known = request.if_none_match or ()
    if any(tag.value in (file.tag, "*") for tag in known):
        response = web.Response(status=304, headers=HEADERS)
    else:
        response = web.Response(body=file.body, content_type=file.type, charset="utf-8", headers=HEADERS)
        if request.headers.get("Accept-Encoding"):
            response.enable_compression()
    response.etag = file.tag
    return response

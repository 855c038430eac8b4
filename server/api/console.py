"""/console: a page of static files, the same for everybody; what it shows it asks of /admin/v1 with a key."""

from __future__ import annotations

from hashlib import sha256
from importlib import resources

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

#: Scripts, styles and connections from here only, nothing inline; texts reach the page as text, never as HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # ask each time: a new version of the server brings a new page
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def router() -> APIRouter:
    """/console/ and its files. They are read once; a name that is not among them is a 404."""
    routes = APIRouter(prefix="/console", include_in_schema=False)
    files = _read_files()

    @routes.get("")
    async def entrance() -> Response:
        """The page's own links are relative to the slash."""
        return RedirectResponse("console/")

    @routes.get("/{name:path}")
    @routes.get("/")  # registered first: the path above matches an empty name too
    async def file(request: Request, name: str = "index.html") -> Response:
        """One file."""
        if name not in files:
            raise HTTPException(404)
        content, kind, tag = files[name]
        headers = {**_HEADERS, "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return routes


def _read_files() -> dict[str, tuple[bytes, str, str]]:
    """Path below `server/console` → (content, type, entity tag)."""
    files = {}
    with resources.as_file(resources.files("server.console")) as folder:
        for file in folder.rglob("*"):
            if kind := _TYPES.get(file.suffix):
                content = file.read_bytes()
                name = file.relative_to(folder).as_posix()
                files[name] = (content, kind, f'"{sha256(content).hexdigest()[:16]}"')
    return files

"""/console: a page of static files. It contains no data; it requests them from /admin/v1 with the user's key."""

from __future__ import annotations

from hashlib import sha256
from importlib import resources

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

#: Scripts, styles and connections only from this server, nothing inline; text is never inserted as HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
#: Of the page, and of others in its looks.
PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # revalidate each time: a new version of the server has a new page
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def router() -> APIRouter:
    """/console/ and its files, which are read once; any other name is a 404."""
    routes = APIRouter(prefix="/console", include_in_schema=False)
    files = _read_files()

    @routes.get("")
    async def entrance() -> Response:
        """Redirect to /console/, because the page's links are relative."""
        return RedirectResponse("console/")

    # NOTE: the lower decorator is applied first, and a path may be empty: "/" must be registered before the files.
    @routes.get("/{name:path}")
    @routes.get("/")
    async def file(request: Request, name: str = "index.html") -> Response:
        """One file."""
        if name not in files:
            raise HTTPException(404)
        content, kind, tag = files[name]
        headers = {**PAGE_HEADERS, "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return routes


def _read_files() -> dict[str, tuple[bytes, str, str]]:
    """Path below this folder → (content, type, entity tag)."""
    files = {}
    with resources.as_file(resources.files("server.api.console")) as folder:
        for file in folder.rglob("*"):
            if kind := _TYPES.get(file.suffix):
                content = file.read_bytes()
                name = file.relative_to(folder).as_posix()
                files[name] = (content, kind, f'"{sha256(content).hexdigest()[:16]}"')
    return files

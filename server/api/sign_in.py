"""/console/session, /console/sign-in and /console/sign-out: people sign in at an OpenID Connect provider."""

from __future__ import annotations

import html
import logging
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from adapters.errors import AdapterError, UnknownTenant
from adapters.registry import Registry
from adapters.registry.access.sessions import Session
from adapters.registry.database import utc_now
from server.api.console.pages import PAGE_HEADERS
from server.api.errors import error_response, rule_of
from server.auth.sign_in import attempts
from server.auth.sign_in.cookies import CookieNames, check_csrf, cookie_in, csrf_token
from server.auth.sign_in.provider import Provider
from server.auth.sign_in.roles import account_of, grant_of, person_name
from server.auth.sign_in.sessions import SessionCallers
from server.config.settings import Settings
from server.config.sign_in import digest_of
from server.errors import LoragateError, SignInFailed, SignInRefused, Unauthenticated

logger = logging.getLogger("loragate.sign_in")

#: The name of the key that all servers on one registry share, with which attempts are signed.
ATTEMPT_KEY = "sign_in"


class SessionInfo(BaseModel):
    """What the console needs to begin."""

    sign_in: bool
    """Whether people can sign in at a provider."""
    csrf_token: str | None
    """The token that each request with the session's cookie needs; null without a session."""


class SignIn:
    """The steps of signing in and out, as responses for a browser."""

    def __init__(self, settings: Settings, registry: Registry, sessions: SessionCallers) -> None:
        self._settings, self._registry, self._sessions = settings, registry, sessions
        self._provider = Provider(settings)
        self._names = CookieNames.of(settings)

    async def begin(self, request: Request) -> Response:
        """Send the browser to the provider."""
        attempt = attempts.begin(await self._registry.secrets.get(ATTEMPT_KEY))
        response = _redirect(await self._provider.authorization_url(attempt))
        # Lax: the provider sends the browser back from its own site.
        response.set_cookie(
            self._names.attempt,
            attempt.cookie,
            max_age=attempts.LIFETIME_S,
            httponly=True,
            secure=self._names.is_secure,
            samesite="lax",
        )
        return response

    async def finish(self, request: Request) -> Response:
        """The provider has sent the browser back: begin a session."""
        query = request.query_params
        key = await self._registry.secrets.get(ATTEMPT_KEY)
        attempt = attempts.resume(
            key, cookie_in(request.headers, self._names.attempt), query.get("state", "")
        )
        if "code" not in query:
            raise SignInFailed("The provider did not sign you in. Sign in again, or ask its operator.")
        if query.get("iss", self._settings.sign_in_issuer) != self._settings.sign_in_issuer:
            raise SignInFailed("The answer comes from another provider (wrong iss). Sign in again.")
        secret = await self._add_session(query["code"], attempt)
        response = _redirect(_console(self._settings))
        response.set_cookie(
            self._names.session,
            secret,
            max_age=int(self._settings.sign_in_hours * 3600),
            httponly=True,
            secure=self._names.is_secure,
            samesite="strict",
        )
        self._delete(response, self._names.attempt)
        return response

    async def _add_session(self, code: str, attempt: attempts.Attempt) -> str:
        settings = self._settings
        claims = await self._provider.claims(code, attempt)
        grant = grant_of(claims, settings.sign_in_roles)
        now = utc_now()
        session = Session(
            id=f"s_{secrets.token_hex(8)}",
            account=account_of(claims),
            name=person_name(claims, settings.sign_in_name_claim),
            role=grant.role,
            tenant=grant.tenant,
            read_only=grant.read_only,
            settings_digest=digest_of(settings),
            created_at=now,
            expires_at=now + timedelta(hours=settings.sign_in_hours),
        )
        try:
            return await self._registry.sessions.add(session)
        except UnknownTenant as error:
            raise SignInRefused(
                f"Your role is for the tenant {grant.tenant!r}, which does not exist here. Ask an operator."
            ) from error

    async def end(self, request: Request) -> Response:
        """End the session of the cookie, also when it is over already."""
        response = Response(status_code=204)
        self._delete(response, self._names.session)
        if secret := self._sessions.secret_in(request.headers):
            check_csrf(request.headers, secret)
            try:
                await self._registry.sessions.end((await self._sessions.signed_in(secret)).session)
            except Unauthenticated:
                return response
        return response

    def _delete(self, response: Response, name: str) -> None:
        response.delete_cookie(name, httponly=True, secure=self._names.is_secure)


def router(settings: Settings, registry: Registry, sessions: SessionCallers) -> APIRouter:
    """The routes; without a provider only the one that says so."""
    routes = APIRouter(prefix="/console", include_in_schema=False)

    @routes.get("/session")
    async def session(request: Request) -> JSONResponse:
        """Whether people can sign in, and the token of this browser's session."""
        token = None
        if secret := sessions.secret_in(request.headers):
            try:
                await sessions.signed_in(secret)
                token = csrf_token(secret)
            except Unauthenticated:
                token = None
        info = SessionInfo(sign_in=bool(settings.sign_in_issuer), csrf_token=token)
        return JSONResponse(info.model_dump(), headers={"cache-control": "no-store"})

    if settings.sign_in_issuer:
        steps, console = SignIn(settings, registry, sessions), _console(settings)
        routes.add_api_route("/sign-in", _shown(steps.begin, console), methods=["GET"])
        routes.add_api_route("/sign-in/callback", _shown(steps.finish, console), methods=["GET"])
        routes.add_api_route("/sign-out", _shown(steps.end, console), methods=["POST"])
    return routes


def _console(settings: Settings) -> str:
    return f"{settings.public_url.rstrip('/')}/console/"


def _redirect(url: str) -> RedirectResponse:
    headers = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
    return RedirectResponse(url, status_code=303, headers=headers)


def _shown(
    step: Callable[[Request], Awaitable[Response]], console: str
) -> Callable[..., Awaitable[Response]]:
    """The step; its refusal is a page for a browser, and JSON for a program."""

    async def route(request: Request) -> Response:
        try:
            return await step(request)
        except (LoragateError, AdapterError) as error:
            logger.info("A sign-in ended with %s: %s", rule_of(error).code, error)
            response = error_response(error, request.url.path)
            if "text/html" not in request.headers.get("accept", ""):
                return response
            return HTMLResponse(_page(str(error), console), response.status_code, PAGE_HEADERS)

    return route


def _page(sentence: str, console: str) -> str:
    """A page with one sentence; `console` is the console's URL."""
    address = html.escape(console)
    return f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>Sign in · loragate console</title>
  <link rel="icon" href="{address}icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="{address}console.css">
</head>
<body>
  <main class="sign-in">
    <p class="brand">loragate</p>
    <h1>You are not signed in</h1>
    <p class="error" role="alert">{html.escape(sentence)}</p>
    <p><a href="{address}">Back to the console</a></p>
  </main>
</body>
</html>
"""

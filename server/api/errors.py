"""The table from domain errors to HTTP, and the shape of every error response.

{"error": {"message": str, "type": str, "param": str | null, "code": str}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from adapters import errors as adapters
from sampling.errors import SamplingError
from server import errors as server
from server.admission import errors as admission
from server.fairness.shares import GuaranteesTooLarge


@dataclass(frozen=True, slots=True)
class Rule:
    """The HTTP form of one error."""

    status: int
    type: str
    code: str


#: Looked up along the class's MRO: a subclass without a row has its parent's.
RULES: dict[type[Exception], Rule] = {
    server.LoragateError: Rule(500, "server_error", "internal_error"),
    server.Unauthenticated: Rule(401, "authentication_error", "invalid_api_key"),
    server.TooManyAttempts: Rule(429, "authentication_error", "too_many_failed_attempts"),
    server.Forbidden: Rule(403, "permission_error", "forbidden"),
    server.ModelNotFound: Rule(404, "invalid_request_error", "model_not_found"),
    server.UnknownRequest: Rule(404, "invalid_request_error", "request_not_found"),
    server.InvalidRequest: Rule(400, "invalid_request_error", "invalid_request"),
    server.BodyTooLarge: Rule(413, "invalid_request_error", "body_too_large"),
    server.AdapterUnavailable: Rule(500, "server_error", "adapter_unavailable"),
    server.BodyTooSlow: Rule(408, "invalid_request_error", "body_too_slow"),
    server.InternalError: Rule(500, "server_error", "internal_error"),
    server.EngineUnavailable: Rule(503, "server_error", "engine_unavailable"),
    server.Draining: Rule(503, "server_error", "draining"),
    admission.AdmissionError: Rule(429, "rate_limit_error", "rate_limit_exceeded"),
    admission.RateLimited: Rule(429, "rate_limit_error", "rate_limit_exceeded"),
    admission.TooManyConcurrent: Rule(429, "rate_limit_error", "concurrency_limit_exceeded"),
    admission.BudgetExhausted: Rule(429, "insufficient_quota", "insufficient_quota"),
    admission.NeverFits: Rule(400, "invalid_request_error", "request_too_large"),
    GuaranteesTooLarge: Rule(400, "invalid_request_error", "invalid_policy"),
    SamplingError: Rule(400, "invalid_request_error", "invalid_value"),
    adapters.AdapterError: Rule(400, "invalid_request_error", "adapter_error"),
    adapters.NotFound: Rule(404, "invalid_request_error", "not_found"),
    adapters.UnknownKey: Rule(401, "authentication_error", "invalid_api_key"),
    adapters.NameTaken: Rule(409, "invalid_request_error", "name_taken"),
    adapters.Conflict: Rule(409, "invalid_request_error", "conflict"),
    adapters.TooManyFetches: Rule(429, "rate_limit_error", "too_many_fetches"),
    adapters.ArtifactRefused: Rule(400, "invalid_request_error", "artifact_refused"),
    adapters.SourceRefused: Rule(400, "invalid_request_error", "source_refused"),
    adapters.SourceUnavailable: Rule(400, "invalid_request_error", "source_unavailable"),
    adapters.StoreFull: Rule(507, "server_error", "store_full"),
    adapters.StoreDamaged: Rule(500, "server_error", "store_damaged"),
    adapters.RegistryUnavailable: Rule(503, "server_error", "registry_unavailable"),
    adapters.LoadFailed: Rule(400, "invalid_request_error", "load_failed"),
    adapters.EngineGone: Rule(503, "server_error", "engine_unavailable"),
    adapters.ProbeFailed: Rule(400, "invalid_request_error", "probe_failed"),
    adapters.ResidencyBusy: Rule(503, "server_error", "adapter_slots_busy"),
    adapters.VersionRetired: Rule(503, "server_error", "version_retired"),
    adapters.SchemaMismatch: Rule(500, "server_error", "schema_mismatch"),
}

#: Every error that has a row; routes catch these.
HANDLED = tuple(RULES)


def rule_of(error: Exception) -> Rule:
    """The row of the nearest class."""
    return next(RULES[cls] for cls in type(error).__mro__ if cls in RULES)


def error_body(error: Exception) -> dict[str, Any]:
    """The body of an error response."""
    rule = rule_of(error)
    return _body(
        str(error), rule.type, getattr(error, "param", None), getattr(error, "code", None) or rule.code
    )


def error_response(error: Exception) -> JSONResponse:
    """The response, with the headers that tell an SDK whether and when to retry."""
    rule = rule_of(error)
    return JSONResponse(error_body(error), status_code=rule.status, headers=_headers(rule.status, error))


def error_event(error: Exception) -> str:
    """The error as the last event of a stream; the SDK raises on the `error` key."""
    return f"data: {json.dumps(error_body(error))}\n\ndata: [DONE]\n\n"


def event_failure(event: str) -> Exception | None:
    """The error that vLLM's handlers wrote into an event (after status 200), or None."""
    if not event.startswith('data: {"error"'):
        return None
    try:
        wrong = json.loads(event.removeprefix("data: "))["error"]
        status, message = int(wrong["code"]), str(wrong["message"])
    except (ValueError, KeyError, TypeError):
        return server.InternalError()
    if status == 503 or "EngineCore" in message:
        return server.EngineUnavailable()
    if status >= 500:
        return server.InternalError()
    return server.InvalidRequest(message, param=wrong.get("param"))


def _headers(status: int, error: Exception) -> dict[str, str]:
    headers: dict[str, str] = dict(getattr(error, "headers", None) or {})
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (429, 503):
        headers["retry-after"] = str(retry_after_s(getattr(error, "retry_after_s", 5.0)))
    if status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not read
    if status in (409, 507):
        headers["x-should-retry"] = "false"
    return headers


def retry_after_s(wanted_s: float) -> int:
    """Whole seconds within the bounds of Retry-After."""
    wanted_s = wanted_s if math.isfinite(wanted_s) else admission.MAX_RETRY_AFTER_S
    return math.ceil(max(admission.MIN_RETRY_AFTER_S, min(wanted_s, admission.MAX_RETRY_AFTER_S)))


def _body(message: str, kind: str, param: str | None, code: str) -> dict[str, Any]:
    # "type" beside "error" is what Anthropic's SDK looks for; OpenAI's ignores it.
    return {"type": "error", "error": {"message": message, "type": kind, "param": param, "code": code}}


def _router_error(request: Request, error: HTTPException) -> JSONResponse:
    code = HTTPStatus(error.status_code).name.lower()
    text = {
        404: f"There is no route {request.url.path}.",
        405: f"{request.method} is not allowed on {request.url.path}.",
    }.get(error.status_code, str(error.detail))
    body = _body(text, "invalid_request_error", None, code)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def install(app: FastAPI, authenticate: Callable[[Headers], Awaitable[object]]) -> None:
    """Give the framework's own errors our shape: 404 and 405 of the router, 422 of bodies as 400.

    Args:
        app: gets the handlers.
        authenticate: raises for an unknown caller, which is not told what is wrong with its body.
    """

    async def unknown_caller(request: Request) -> JSONResponse | None:
        try:
            await authenticate(request.headers)
        except HANDLED as refusal:
            return error_response(refusal)
        return None

    async def on_domain(request: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, HANDLED):  # FastAPI makes a 400 of any error while it reads a body
            return await unknown_caller(request) or error_response(error.__cause__)
        return _router_error(request, error)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        if refusal := await unknown_caller(request):
            return refusal
        fault = error.errors()[0]
        param = ".".join(str(part) for part in fault["loc"] if part != "body") or None
        message = f"{param}: {fault['msg']}" if param else str(fault["msg"])
        return JSONResponse(
            _body(message, "invalid_request_error", param, "invalid_request"), status_code=400
        )

    for cls in HANDLED:
        app.add_exception_handler(cls, on_domain)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)

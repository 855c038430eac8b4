"""The table from domain errors to HTTP, and the shape of every error response.

{"error": {"message": str, "type": str, "param": str | null, "code": str}}; on Anthropic's routes with its types.
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
from adapters.billing import errors as billing
from adapters.promotion import errors as promotion
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
    server.SignInFailed: Rule(400, "invalid_request_error", "sign_in_failed"),
    server.SignInRefused: Rule(403, "permission_error", "no_role"),
    server.ProviderUnavailable: Rule(503, "server_error", "provider_unavailable"),
    server.ModelNotFound: Rule(404, "invalid_request_error", "model_not_found"),
    server.UnknownRequest: Rule(404, "invalid_request_error", "request_not_found"),
    server.UnknownResponse: Rule(404, "invalid_request_error", "previous_response_not_found"),
    server.InvalidRequest: Rule(400, "invalid_request_error", "invalid_request"),
    server.TooManyLargeRequests: Rule(429, "rate_limit_error", "too_many_large_requests"),
    server.HeadTooLarge: Rule(431, "invalid_request_error", "head_too_large"),
    server.BodyTooLarge: Rule(413, "invalid_request_error", "body_too_large"),
    server.AdapterUnavailable: Rule(500, "server_error", "adapter_unavailable"),
    server.BodyTooSlow: Rule(408, "invalid_request_error", "body_too_slow"),
    server.InternalError: Rule(500, "server_error", "internal_error"),
    server.EngineUnavailable: Rule(503, "server_error", "engine_unavailable"),
    server.EngineStalled: Rule(503, "server_error", "engine_stalled"),
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
    adapters.UnknownTenant: Rule(404, "invalid_request_error", "tenant_not_found"),
    adapters.UnknownKey: Rule(404, "invalid_request_error", "key_not_found"),
    adapters.UnknownAdapter: Rule(404, "invalid_request_error", "adapter_not_found"),
    adapters.UnknownVersion: Rule(404, "invalid_request_error", "version_not_found"),
    billing.UnknownPrice: Rule(404, "invalid_request_error", "price_not_found"),
    billing.UnknownWebhook: Rule(404, "invalid_request_error", "webhook_not_found"),
    adapters.UnknownUpload: Rule(404, "invalid_request_error", "upload_not_found"),
    promotion.UnknownEvaluation: Rule(404, "invalid_request_error", "evaluation_not_found"),
    adapters.NameTaken: Rule(409, "invalid_request_error", "name_taken"),
    adapters.Conflict: Rule(409, "invalid_request_error", "conflict"),
    promotion.ConditionNotMet: Rule(409, "invalid_request_error", "condition_not_met"),
    promotion.BadCondition: Rule(400, "invalid_request_error", "bad_condition"),
    promotion.EvaluationRefused: Rule(400, "invalid_request_error", "evaluation_refused"),
    promotion.TooManyEvaluations: Rule(429, "rate_limit_error", "too_many_evaluations"),
    adapters.TooManyFetches: Rule(429, "rate_limit_error", "too_many_fetches"),
    adapters.BlendLimit: Rule(429, "rate_limit_error", "blend_limit_exceeded"),
    adapters.ArtifactRefused: Rule(400, "invalid_request_error", "artifact_refused"),
    adapters.SourceRefused: Rule(400, "invalid_request_error", "source_refused"),
    adapters.SourceUnavailable: Rule(400, "invalid_request_error", "source_unavailable"),
    adapters.StoreFull: Rule(507, "server_error", "store_full"),
    adapters.DepotUnavailable: Rule(503, "server_error", "depot_unavailable"),
    adapters.StoreDamaged: Rule(500, "server_error", "store_damaged"),
    adapters.RegistryUnavailable: Rule(503, "server_error", "registry_unavailable"),
    adapters.LoadFailed: Rule(400, "invalid_request_error", "load_failed"),
    adapters.EngineGone: Rule(503, "server_error", "engine_unavailable"),
    adapters.ProbeFailed: Rule(400, "invalid_request_error", "probe_failed"),
    adapters.ProofFailed: Rule(400, "invalid_request_error", "proof_failed"),
    adapters.ProofTimedOut: Rule(503, "server_error", "proof_timed_out"),
    adapters.ResidencyBusy: Rule(503, "server_error", "adapter_slots_busy"),
    adapters.VersionRetired: Rule(503, "server_error", "version_retired"),
    adapters.SchemaMismatch: Rule(500, "server_error", "schema_mismatch"),
}

#: What Anthropic's clients look for in `type`, by status.
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_ANTHROPIC_PATHS = "/v1/messages"

#: Every error that has a row; routes catch these.
HANDLED = tuple(RULES)


def rule_of(error: Exception) -> Rule:
    """The row of the nearest class."""
    return next(RULES[cls] for cls in type(error).__mro__ if cls in RULES)


def error_body(error: Exception, path: str = "") -> dict[str, Any]:
    """The body of an error response to a request of this path."""
    rule = rule_of(error)
    kind = _ANTHROPIC_TYPES.get(rule.status, "api_error") if _is_anthropics(path) else rule.type
    return _body(str(error), kind, getattr(error, "param", None), getattr(error, "code", None) or rule.code)


def error_response(error: Exception, path: str = "") -> JSONResponse:
    """The response, with the headers that tell an SDK whether and when to retry."""
    rule = rule_of(error)
    return JSONResponse(
        error_body(error, path), status_code=rule.status, headers=_headers(rule.status, error)
    )


def error_event(error: Exception, path: str = "") -> str:
    """The error as the last event of a stream: OpenAI's SDK raises on the key `error`, Anthropic's on the event."""
    data = f"data: {json.dumps(error_body(error, path))}\n\n"
    return f"event: error\n{data}" if _is_anthropics(path) else f"{data}data: [DONE]\n\n"


def event_failure(event: str) -> Exception | None:
    """The error that vLLM's handlers wrote into an event (after status 200), or None."""
    if event.startswith("event: error\n"):  # Anthropic's; vLLM has lost the reason
        return server.InternalError()
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


def _is_anthropics(path: str) -> bool:
    return path.startswith(_ANTHROPIC_PATHS)


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
    code = "route_not_found" if error.status_code == 404 else HTTPStatus(error.status_code).name.lower()
    text = {
        404: f"There is no route {request.url.path}.",
        405: f"{request.method} is not allowed on {request.url.path}.",
    }.get(error.status_code, str(error.detail))
    kind = _ANTHROPIC_TYPES.get(error.status_code) if _is_anthropics(request.url.path) else None
    body = _body(text, kind or "invalid_request_error", None, code)
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

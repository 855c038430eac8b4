"""/tokenize, /detokenize and Anthropic's count of tokens: the base model's tokenizer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from server.admission.errors import AdmissionError
from server.api.errors import HANDLED, error_body, error_response
from server.api.middleware.body_reader import announced_bytes, read_body_bytes
from server.api.middleware.disconnects import run_while_connected
from server.api.middleware.request_middleware import CLIENT_CLOSED_REQUEST
from server.api.request_observer import RequestObserver
from server.auth.authenticator import Authenticator
from server.observability.readiness import Readiness
from server.request.access_log import AccessRecord
from server.request.context import Caller
from server.request.tokenization import TokenizationService, TokenRoute


class Tokens(BaseModel):
    """vLLM's answer to /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Text(BaseModel):
    """vLLM's answer to /detokenize."""

    prompt: str


class ContextManagement(BaseModel):
    """Anthropic's; nothing is taken out of a prompt here."""

    original_input_tokens: int


class TokenCount(BaseModel):
    """Anthropic's answer to a count of tokens."""

    input_tokens: int
    context_management: ContextManagement | None


@dataclass(frozen=True, slots=True)
class _TokenRoutes:
    """Serves one request of any of the routes."""

    service: TokenizationService
    authenticator: Authenticator
    readiness: Readiness
    observer: RequestObserver
    ending: asyncio.Event

    async def answer(self, route: TokenRoute, request: Request) -> Response:
        record: AccessRecord = request.scope["state"]["record"]
        caller: Caller | None = None
        try:
            caller = await self.authenticator.authenticate(request.headers)
            self.readiness.require_ready()
            record.note_caller(caller)
            response = await self._answer(route, caller, request, record)
        except ClientDisconnect:
            record.status = CLIENT_CLOSED_REQUEST
            raise
        except HANDLED as error:
            response = error_response(error, request.url.path)
            record.code = str(error_body(error)["error"]["code"])
            reason = error.limit if isinstance(error, AdmissionError) else record.code
            self.observer.refused(record.tenant or "", reason)
            if caller is not None:
                response.headers.update(self.service.rate_headers(caller))
            record.status = response.status_code
        except Exception:  # the middleware answers 500; the metrics must not count the request as served
            record.status = 500
            raise
        finally:
            self.observer.tokenized(record, route.value)
        return response

    async def _answer(
        self, route: TokenRoute, caller: Caller, request: Request, record: AccessRecord
    ) -> Response:
        """The answer; the work ends when the client leaves. Raises: ClientDisconnect, those of `HANDLED`."""
        content = b""
        with self.service.memory.hold(caller.tenant_name, announced_bytes(request)):
            raw = await read_body_bytes(request)

            async def work() -> None:
                nonlocal content
                content = await self.service.answer(route, caller, raw, record)

            await run_while_connected(request.receive, self.ending, work())
        return Response(content, media_type="application/json", headers=self.service.rate_headers(caller))


def router(
    service: TokenizationService,
    authenticator: Authenticator,
    readiness: Readiness,
    observer: RequestObserver,
    ending: asyncio.Event,
) -> APIRouter:
    """/tokenize, /detokenize and /v1/messages/count_tokens.

    Args:
        service: admits and answers.
        authenticator, readiness: who calls, and whether the engine serves.
        observer: counts the requests.
        ending: set when the process ends.
    """
    routes = APIRouter(tags=["models"])
    serving = _TokenRoutes(service, authenticator, readiness, observer, ending)

    @routes.post(TokenRoute.TOKENIZE.path, response_model=Tokens)
    async def tokenize(request: Request) -> Response:
        """Token ids of a `prompt` or of `messages`."""
        return await serving.answer(TokenRoute.TOKENIZE, request)

    @routes.post(TokenRoute.DETOKENIZE.path, response_model=Text)
    async def detokenize(request: Request) -> Response:
        """The text of `tokens`."""
        return await serving.answer(TokenRoute.DETOKENIZE, request)

    @routes.post(TokenRoute.COUNT.path, response_model=TokenCount)
    async def count_tokens(request: Request) -> Response:
        """Anthropic's count of a prompt's tokens, which a message with the same fields would have as input."""
        return await serving.answer(TokenRoute.COUNT, request)

    return routes

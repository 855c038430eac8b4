"""/tokenize, /detokenize and Anthropic's count of tokens: the base model's tokenizer, admitted like a generation.

A request takes a place of its tenant's max_concurrency and counts in rpm. In tpm it counts a token for four bytes of
its body before the work, and the tokens of its answer (/detokenize: of its body) after it. It counts in no token
budget and not in the usage ledger, because the model does no work for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from adapters.tenant_settings import TenantSettings
from sampling.endpoints import Endpoint
from server.admission import Admission, Reservation
from server.fairness.shares import OPERATOR_SETTINGS
from server.request.access_log import AccessRecord
from server.request.body import Body, is_small, read
from server.request.body_memory import BodyMemory
from server.request.context import Caller
from server.request.request_service import Prompts
from server.request.routing import Router
from server.request.sampling import SamplingResolver

#: Bytes of a body that count as one token before its tokens are known.
_BYTES_PER_TOKEN = 4


class TokenRoute(StrEnum):
    """What is asked of the tokenizer."""

    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    COUNT = "count_tokens"

    @property
    def path(self) -> str:
        """The public route."""
        return "/v1/messages/count_tokens" if self is TokenRoute.COUNT else f"/{self.value}"

    @property
    def like(self) -> Endpoint:
        """The endpoint whose bounds of a small body hold here, because vLLM checks the same fields."""
        return _LIKE[self]


_LIKE = {
    TokenRoute.TOKENIZE: Endpoint.CHAT,
    TokenRoute.DETOKENIZE: Endpoint.COMPLETIONS,
    TokenRoute.COUNT: Endpoint.MESSAGES,
}


class TokenHandlers(Protocol):
    """The part of `server.engine.handlers.VllmHandlers` that is used here."""

    async def tokenize(self, body: Body, request_id: str, tenant: str = "") -> Any:
        """vLLM's TokenizeResponse. Raises: LoragateError."""

    async def detokenize(self, body: Body, request_id: str, tenant: str = "") -> Any:
        """vLLM's DetokenizeResponse. Raises: LoragateError."""

    async def count_tokens(self, body: Body, request_id: str, tenant: str = "") -> Any:
        """vLLM's AnthropicCountTokensResponse. Raises: LoragateError."""


@dataclass(frozen=True, slots=True)
class TokenizationService:
    """Admits and answers requests of the three routes."""

    router: Router
    sampling: SamplingResolver
    admission: Admission
    handlers: Callable[[], TokenHandlers]
    """Those of the running engine; raises EngineUnavailable while there is none."""
    prompts: Callable[[], Prompts]
    """As `handlers`."""
    memory: BodyMemory
    """The generating requests' as well."""
    admitted: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
    """As `RequestService.admitted`."""

    async def answer(self, route: TokenRoute, caller: Caller, raw: bytes, record: AccessRecord) -> bytes:
        """The JSON of the answer of a tokenization route.

        Args:
            route: what is asked.
            caller: who asks; its limits hold.
            raw: the body.
            record: gets the number of tokens.

        Raises:
            AdmissionError: a limit of the tenant or the key is reached.
            LoragateError, RequestError: the body is not valid, above a limit, or there is no engine.
        """
        settings = caller.tenant.settings if caller.tenant else OPERATOR_SETTINGS
        estimate = len(raw) // _BYTES_PER_TOKEN + 1
        reservation = await self._reserve(caller, settings, estimate)
        try:
            content, tokens = await self._work(route, caller, raw, record)
            record.prompt_tokens = tokens
            reservation.settle(prompt_tokens=tokens, cached_tokens=0, generated_tokens=0)
        finally:
            # What ended early has cost something, too: it counts as estimated.
            reservation.settle(prompt_tokens=estimate, cached_tokens=0, generated_tokens=0)
        return content

    async def _reserve(self, caller: Caller, settings: TenantSettings, tokens: int) -> Reservation:
        made: list[Reservation] = []

        async def attempt() -> None:
            made.append(
                self.admission.reserve_tokenizing(caller.tenant_name, settings, tokens=tokens, key=caller.key)
            )

        await self.admitted(attempt)
        return made[0]

    def rate_headers(self, caller: Caller) -> dict[str, str]:
        """The present `x-ratelimit-*` headers, for an answer of a tokenization route."""
        settings = caller.tenant.settings if caller.tenant else OPERATOR_SETTINGS
        return self.admission.headers(caller.tenant_name, settings, caller.key)

    async def _work(
        self, route: TokenRoute, caller: Caller, raw: bytes, record: AccessRecord
    ) -> tuple[bytes, int]:
        tenant, limits = caller.tenant_name, self.sampling.limits_for(caller.limits)
        if not is_small(raw, route.like):
            prompts = self.prompts()
            model, content, tokens = await getattr(prompts, route.value)(tenant, raw, limits)
            await self._check_model(caller, model, record)
            return content, tokens
        body = Body(read(raw, limits), size_bytes=len(raw))
        await self._check_model(caller, body.fields.get("model"), record)
        answer = await getattr(self.handlers(), route.value)(body, record.request_id, tenant)
        if route is TokenRoute.COUNT:
            tokens = int(answer.input_tokens)
        else:
            tokens = len(answer.tokens if route is TokenRoute.TOKENIZE else body.fields["tokens"])
        return answer.model_dump_json().encode(), tokens

    async def _check_model(self, caller: Caller, model: object, record: AccessRecord) -> None:
        """Raises: ModelNotFound, InvalidRequest."""
        if model is not None:
            record.note_requested_model({"model": model})
            await self.router.resolve(caller, model)

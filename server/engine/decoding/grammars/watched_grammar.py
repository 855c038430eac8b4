"""A grammar that cannot harm the engine: it has a budget of time, and an answer that it leaves no token for ends.

A grammar that compiles quickly can still be slow: an ambiguous one takes longer with each token. And it can lead into
a state in which no token is allowed, or reach a limit of its library; vLLM would then sample from no token at all and
fail the request, or end it as if it were complete. `TenantScheduler` ends such an answer with the finish reason
"length", because it was cut off, and `failed` as its stop reason.

Leans on (vLLM 0.32): backend_types.StructuredOutputGrammar, backend_guidance.GuidanceGrammar,
v1.request.Request and RequestStatus.
"""

from __future__ import annotations

import time

import torch
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output.backend_guidance import GuidanceGrammar
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

#: Processor seconds that the grammar of one answer may take: at once, and for each token.
GRACE_S = 0.5
PER_STEP_S = 0.002

DEAD_END = "grammar_dead_end"
TOO_SLOW = "grammar_too_slow"


class WatchedGrammar(StructuredOutputGrammar):
    """One answer's grammar.

    Attributes:
        grammar: the library's own.
        failed: why the answer has to end, or None; then every token is allowed and none has an effect.
    """

    def __init__(self, grammar: StructuredOutputGrammar) -> None:
        self.grammar = grammar
        self.failed: str | None = None
        self.spent_s = 0.0
        self._steps = 0

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """See `StructuredOutputGrammar`; True also for a token that the grammar refuses, which ends the answer."""
        if self.failed is None and not self._timed_accept(request_id, tokens):
            self.failed = DEAD_END
        return True

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """See `StructuredOutputGrammar`."""
        return tokens if self.failed else self.grammar.validate_tokens(tokens)

    def rollback(self, num_tokens: int) -> None:
        """See `StructuredOutputGrammar`."""
        if self.failed is None:
            self.grammar.rollback(num_tokens)

    def fill_bitmask(self, bitmask: torch.Tensor, idx: int) -> None:
        """Write the allowed tokens into row `idx` of [rows, V / 32] int32; all of them once it has failed."""
        row = bitmask[idx]
        if self.failed is None:
            began = time.thread_time()
            row.fill_(-1)
            self.grammar.fill_bitmask(bitmask, idx)
            self._steps += 1
            self.spent_s += time.thread_time() - began
            self._judge(row)
        if self.failed is not None:
            row.fill_(-1)

    def is_terminated(self) -> bool:
        """See `StructuredOutputGrammar`."""
        return bool(self.grammar.is_terminated())

    def reset(self) -> None:
        """See `StructuredOutputGrammar`."""
        self.grammar.reset()
        self.failed = None

    def _timed_accept(self, request_id: str, tokens: list[int]) -> bool:
        began = time.thread_time()
        try:
            return bool(self.grammar.accept_tokens(request_id, tokens))
        finally:
            self.spent_s += time.thread_time() - began

    def _judge(self, row: torch.Tensor) -> None:
        if not row.numpy().any() or _has_stopped_working(self.grammar):
            self.failed = DEAD_END
        elif self.spent_s > GRACE_S + self._steps * PER_STEP_S:
            self.failed = TOO_SLOW


def has_ended(request: Request) -> bool:
    """Whether a request's grammar has failed; then the request ends here, and its last token does not count."""
    structured = request.structured_output_request
    grammar = structured.grammar if structured is not None else None
    if not isinstance(grammar, WatchedGrammar) or grammar.failed is None:
        return False
    request.status = RequestStatus.FINISHED_LENGTH_CAPPED
    request.stop_reason = grammar.failed
    return True


def _has_stopped_working(grammar: StructuredOutputGrammar) -> bool:
    """Whether guidance has reached one of its limits: from then on it allows the end of the answer only."""
    return isinstance(grammar, GuidanceGrammar) and bool(grammar.ll_matcher.is_error())

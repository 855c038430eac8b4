"""Generates from token ids, for the server's own work: no chat template, no text, no wire models.

Like every other generation it passes `Gate.generate`, which stamps, meters and settles it.
Leans on (vLLM 0.32): vllm.sampling_params.SamplingParams and RequestOutputKind; RequestOutput.prompt_logprobs, of
which each row but the first has the log-probability of the prompt's own token.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.engine.handlers import VllmHandlers
from server.request.context import JsonAnswer, RequestContext
from server.request.gate import Gate

#: Of a token that the model excludes: JSON has no infinity. vLLM's own handlers write the same.
_LEAST_LOGPROB = -9999.0


async def generate_tokens(gate: Gate, handlers: VllmHandlers, context: RequestContext) -> JsonAnswer:
    """Serve one request of the server's own inside `Gate.admit(context)`.

    Its body: `prompt_token_ids`; `max_tokens` and `end_id`, with which a greedy answer ends; or `logprobs_from`, the
    position in the prompt from which on its log-probabilities are wanted, and nothing is generated but one token; or
    `sampling_params`, those of a request of which this is a copy, and `answer`, to which each output is added.

    Returns: `token_ids` of the answer, through its end; `logprobs` of the prompt's tokens (natural logarithm).
    Raises: LoragateError: the gate refuses it.
    """
    body = context.sampling.body
    ids, scored_from = body["prompt_token_ids"], body.get("logprobs_from")
    params = body.get("sampling_params") or _params(body)
    params.output_kind, params.logprobs = RequestOutputKind.FINAL_ONLY, None
    held = context.held
    lora_request = None if held is None else handlers.models.lora_requests[held.engine_name]
    stream = gate.generate(
        {"prompt_token_ids": ids}, params, f"background-{uuid4().hex}", lora_request=lora_request
    )
    content: dict[str, Any] = {"token_ids": [], "logprobs": []}
    async with aclosing(stream) as outputs:
        async for output in outputs:
            if copied := body.get("answer"):
                copied.add(output, time.monotonic())
            content["token_ids"] += list(output.outputs[0].token_ids)
            if scored_from is not None and output.prompt_logprobs is not None:
                content["logprobs"] = _logprobs(output.prompt_logprobs, ids, scored_from)
    return JsonAnswer(content)


def _params(body: dict[str, Any]) -> SamplingParams:
    """Greedy, without text."""
    scored = "logprobs_from" in body
    return SamplingParams(
        temperature=0.0,
        max_tokens=1 if scored else body["max_tokens"],
        stop_token_ids=None if scored else [body["end_id"]],
        prompt_logprobs=0 if scored else None,
        detokenize=False,
    )


def _logprobs(rows: Any, ids: list[int], scored_from: int) -> list[float]:
    return [max(rows[at][ids[at]].logprob, _LEAST_LOGPROB) for at in range(scored_from, len(ids))]

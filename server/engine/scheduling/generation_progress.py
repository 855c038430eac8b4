"""The progress of a generation whose output vLLM returns only when it is complete.

Leans on (vLLM 0.32): vllm.v1.engine.output_processor.OutputProcessor (request_states, external_req_ids), RequestState
(prompt_token_ids, num_cached_tokens, detokenizer, stats, parent_req), ParentRequest (output_aggregator).
"""

from __future__ import annotations

from vllm.v1.engine.async_llm import AsyncLLM

from server.request.metering import Progress


def progress(client: AsyncLLM, request_id: str) -> Progress | None:
    """The tokens generated under this id so far.

    Args:
        client: the engine.
        request_id: the id that was passed to `AsyncLLM.generate`. With n > 1 the result is the sum over all its
            sequences, including those that have ended and wait for the others.

    Returns:
        None before the first token, and when vLLM no longer knows the id.
    """
    processor = client.output_processor
    # NOTE: `external_req_ids` is a defaultdict; indexing it would create an entry.
    states = [processor.request_states[name] for name in processor.external_req_ids.get(request_id, ())]
    running = sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer is not None)
    parent = next((state.parent_req for state in states if state.parent_req is not None), None)
    ended = [output for output in parent.output_aggregator if output is not None] if parent else []
    generated = running + sum(len(output.token_ids) for output in ended)
    if not generated:
        return None
    first = states[0]
    return Progress(len(first.prompt_token_ids or ()), first.num_cached_tokens, generated, first.stats)

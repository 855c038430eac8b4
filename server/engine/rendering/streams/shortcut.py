"""Writes new text of a stream where vLLM's output processor finds it, straight to the connection.

vLLM makes a record of each new token, puts it into the generation's queue and wakes a task, which passes it through
its handler's generators; on a GPU that is most of what a token costs. While the task of a plain stream waits for its
next output, the text between its first and its last output is counted, written and sent here instead
(`part_flusher` says when). Everything else still reaches the task: the first output, which has the prompt's figures;
the last one of each sequence; errors; and every output from the moment the client reads too slowly, until it has
caught up. So nothing overtakes anything, what waits stays bounded, and a stream ends in one place.

Leans on (vLLM 0.32): OutputProcessor (`process_outputs`, which calls `make_request_output` for each output and puts
what it returns into `RequestState.queue`; `request_states`, `external_req_ids`); RequestState (`from_new_request`,
`make_request_output`, `queue`, `detokenizer`, `request_index`, `stream_interval`, `output_kind`);
IncrementalDetokenizer.get_next_output_text; ParentRequest.get_outputs, which changes nothing for an output that does
not end its sequence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import FinishReason, output_processor
from vllm.v1.engine.output_processor import OutputProcessor, RequestState

from server.engine.rendering.output_collector import BoundedOutputCollector
from server.engine.rendering.streams.chunks import ChunkWriter
from server.engine.rendering.streams.part_flusher import PartFlusher, flusher_of
from server.request.context import PartWriter
from server.request.gate import Gate
from server.request.metering import MeteredStream

logger = logging.getLogger("loragate.engine")


@dataclass(frozen=True, slots=True)
class DeltaSender:
    """Counts, writes and sends the deltas of one stream (`output_collector.DeltaReceiver`)."""

    writer: ChunkWriter
    metered: MeteredStream
    parts: PartWriter
    flusher: PartFlusher
    fail: Callable[[Exception], None]

    def is_ready(self) -> bool:
        """Whether the client can get a delta now."""
        return self.parts.is_ready()

    def send(self, index: int, text: str, token_ids: list[int]) -> None:
        """Send what one sequence has new."""
        self.metered.count_delta(index, token_ids)
        if event := self.writer.delta(index, text, len(token_ids)):
            self.parts.keep(event)
            self.flusher.add(self.parts, self.fail)


class DirectRequestState(RequestState):
    """vLLM's state of a sequence, which makes no record of a delta that can be sent at once."""

    def make_request_output(
        self,
        new_token_ids: list[int],
        pooling_output: Any,
        finish_reason: FinishReason | None,
        *others: Any,
        **named: Any,
    ) -> Any:
        """See `RequestState`; None: there is nothing to put into the queue."""
        queue: Any = self.queue
        receiver = None
        if finish_reason is None and isinstance(queue, BoundedOutputCollector):
            receiver = queue.ready_receiver()
        if receiver is None:
            return super().make_request_output(new_token_ids, pooling_output, finish_reason, *others, **named)
        try:
            text = self.detokenizer.get_next_output_text(False, True)
            receiver.send(self.request_index, text, new_token_ids)
        except Exception as error:  # else vLLM ends all generations, as for any error of the processor
            logger.exception("An output cannot be sent.", extra={"request_id": self.external_req_id})
            queue.fail(error)
        return None


def install() -> None:
    """Let vLLM's output processor use `DirectRequestState`. Idempotent."""
    vars(output_processor).update(RequestState=DirectRequestState)


def of(gate: Gate, writer: ChunkWriter) -> Callable[[PartWriter], None]:
    """What opens the shortcut of this task's generation (`StreamAnswer.shortcut`); it may have no effect."""
    metered = gate.only_stream()
    if metered is None:
        return lambda parts: None
    return partial(_open, gate, writer, metered)


def _open(gate: Gate, writer: ChunkWriter, metered: MeteredStream, parts: PartWriter) -> None:
    """Open it, if the outputs of the generation are plain deltas and it has not ended."""
    processor: OutputProcessor = gate.output_processor
    # NOTE: `external_req_ids` is a defaultdict; indexing it would create an entry.
    names = processor.external_req_ids.get(metered.engine_id, ())
    states = [processor.request_states[name] for name in names]
    if not states or not metered.is_countable or not all(map(_is_plain, states)):
        return
    queue = states[0].queue  # all sequences of a generation share it
    if isinstance(queue, BoundedOutputCollector):
        queue.receiver = DeltaSender(writer, metered, parts, flusher_of(gate), queue.fail)


def _is_plain(state: RequestState) -> bool:
    return state.output_kind is RequestOutputKind.DELTA and state.stream_interval == 1

"""Acting on loops: an answer that goes in circles is ended, or steered out of the circle while it is drawn.

What counts as a loop and how far things may be raised is `sampling.repetition`; here it meets vLLM:
- `LoopWatch` ends an answer. The scheduler asks it after each token, as vLLM asks `check_stop`.
- `SteeringProcessor` raises penalty and temperature. It exists only with `--repetition-adjustment`, because a
  custom processor makes vLLM wait for each token on the host before it draws the next one.

An answer that asked for neither has no state here. Leans on (vLLM 0.32): v1.request.Request and RequestStatus,
v1.sample.logits_processor.LogitsProcessor with BatchUpdate and process_dict_updates, SamplingParams.extra_args,
tokenizers.cached_tokenizer_from_config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from vllm.config import ModelConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.request import Request, RequestStatus
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import BatchUpdate

from sampling.repetition import Adjustment, Detector, Drawing, Thresholds, adjust, next_pressure
from server.fairness.policy import STAMP_KEY
from server.request.gate import REPETITION_KEY

#: Where the operator's figures stand in `additional_config["loragate"]`.
POLICY_KEY = "repetition"
#: What a client finds in a choice's `stop_reason`; vLLM's own detection says the same.
STOP_REASON = "repetition_detected"
PROCESSOR = "server.engine.decoding.repetition:SteeringProcessor"
"""As `logits_processors` of vLLM's engine arguments wants it; it is resolved in the worker."""

_LINE_BREAKS = ("\n", "Ċ")  # "Ċ" is how byte-level vocabularies write a line feed


@dataclasses.dataclass(frozen=True, slots=True)
class RepetitionPolicy:
    """The operator's figures for both actions."""

    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    adjustment: Adjustment = dataclasses.field(default_factory=Adjustment)

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> RepetitionPolicy:
        """From one flat mapping of figures; what is left out has its default.

        Raises:
            InvalidPolicy: a figure is out of its range.
            TypeError: there is no such figure.
        """
        names = {field.name for field in dataclasses.fields(Thresholds)}
        return cls(
            Thresholds(**{name: value for name, value in figures.items() if name in names}),
            Adjustment(**{name: value for name, value in figures.items() if name not in names}),
        )


class LoopWatch:
    """Watches the answers of requests that asked for "stop", in the scheduler."""

    def __init__(self, config: VllmConfig) -> None:
        self._model = config.model_config
        self._thresholds = policy_in(config).thresholds
        self._newline_ids: frozenset[int] | None = None

    def watches(self, request: Request) -> bool:
        """Whether the request asked for it; `ends` is for those that did."""
        arguments = request.sampling_params.extra_args if request.sampling_params else None
        return arguments is not None and arguments.get(REPETITION_KEY) == "stop"

    def ends(self, request: Request, new_token_ids: Sequence[int]) -> bool:
        """Take note of an unfinished answer's new tokens; whether it ends with them, as one that loops.

        The detector lives on vLLM's own request and goes with it. As with vLLM's detection, `min_tokens` holds.
        """
        detector: Detector | None = getattr(request, "loragate_detector", None)
        if detector is None:
            detector = request.loragate_detector = Detector(self._thresholds, self._newlines())
        for token_id in new_token_ids:
            detector.push(token_id)
        if detector.verdict is None or request.num_output_tokens < request.sampling_params.min_tokens:
            return False
        request.status = RequestStatus.FINISHED_REPETITION
        request.stop_reason = STOP_REASON
        return True

    def _newlines(self) -> frozenset[int]:
        if self._newline_ids is None:
            self._newline_ids = newline_ids(self._model)
        return self._newline_ids


class _Steered:
    """One answer that asked for "adjust"; `output_ids` is vLLM's own growing list."""

    def __init__(
        self,
        policy: RepetitionPolicy,
        params: SamplingParams,
        output_ids: list[int],
        newlines: frozenset[int],
    ) -> None:
        self._policy = policy.adjustment
        self._asked = Drawing(params.repetition_penalty, params.temperature)
        self._detector = Detector(policy.thresholds, newlines)
        self._output_ids = output_ids
        self._read = 0
        self._pressure = 0.0

    def steer(self, row: torch.Tensor) -> None:
        """Change one row of logits [V] in place, before vLLM applies what was asked for.

        vLLM divides by the asked penalty and temperature after us, so what is applied here is the rest: the
        ratio between what holds and what was asked. The raised penalty is for tokens of the answer alone.
        """
        self._read_on()
        if self._pressure == 0.0:
            return
        now = adjust(self._policy, self._asked, self._pressure)
        factor = now.repetition_penalty / self._asked.repetition_penalty
        seen = torch.tensor(sorted(set(self._output_ids[: self._read])), device=row.device)
        scores = row[seen]
        row[seen] = torch.where(scores > 0, scores / factor, scores * factor)
        if self._asked.temperature > 0:
            row *= self._asked.temperature / now.temperature

    def _read_on(self) -> None:
        for token_id in self._output_ids[self._read :]:
            if token_id < 0:  # a place that asynchronous scheduling has not filled yet
                return
            self._detector.push(token_id)
            self._read += 1
            self._pressure = next_pressure(self._policy, self._pressure, self._detector.closeness)


class SteeringProcessor(LogitsProcessor):
    """Raises penalty and temperature of the answers that asked for "adjust", while they go in circles."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._policy = policy_in(vllm_config)
        self._newline_ids = newline_ids(vllm_config.model_config)
        self._steered: dict[int, _Steered] = {}

    def is_argmax_invariant(self) -> bool:
        """A raised penalty can change which token is the likeliest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as they enter, leave and move within the batch."""
        process_dict_updates(self._steered, batch_update, self._begin)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Steer the rows that want it, in place; `logits` is [batch, V]."""
        for row, steered in self._steered.items():
            steered.steer(logits[row])
        return logits

    def _begin(
        self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
    ) -> _Steered | None:
        if not params.extra_args or params.extra_args.get(REPETITION_KEY) != "adjust":
            return None
        return _Steered(self._policy, params, output_ids, self._newline_ids)


def policy_in(config: VllmConfig) -> RepetitionPolicy:
    """The operator's figures, as `server.engine.args` wrote them into vLLM's configuration."""
    options = config.additional_config
    ours = options.get(STAMP_KEY, {}) if isinstance(options, dict) else {}
    return RepetitionPolicy.of(ours.get(POLICY_KEY, {}))


def newline_ids(model: ModelConfig) -> frozenset[int]:
    """The tokens whose text ends with a line break; none where there is no tokenizer."""
    if model.skip_tokenizer_init:
        return frozenset()
    vocabulary: dict[str, int] = cached_tokenizer_from_config(model).get_vocab()
    return frozenset(token_id for text, token_id in vocabulary.items() if text.endswith(_LINE_BREAKS))

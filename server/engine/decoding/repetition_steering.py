"""Handles repetition loops in vLLM: ends a looping answer, or steers it out of the loop while it is generated.

`sampling.repetition_detector` defines loops and the bounds of the adjustment; this module connects it to vLLM:
- `LoopWatch` ends an answer. The scheduler calls it after each token, as vLLM calls `check_stop`.
- `SteeringProcessor` raises penalty and temperature. It exists only with `--repetition-adjustment`, because a
  custom logits processor makes vLLM wait on the host for each token before it samples the next one.

An answer that requested neither has no state here. Leans on (vLLM 0.32): v1.request.Request and RequestStatus,
v1.sample.logits_processor.LogitsProcessor with BatchUpdate and process_dict_updates, SamplingParams.extra_args,
tokenizers.cached_tokenizer_from_config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from vllm.config import ModelConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.request import Request, RequestStatus
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import BatchUpdate

from sampling.repetition_detector import (
    Adjustment,
    RepetitionDetector,
    SteeredOptions,
    Thresholds,
    adjust,
    next_strength,
)
from server.fairness.shares import STAMP_KEY
from server.request.gate import REPETITION_KEY

#: The key of the operator's figures in `additional_config["loragate"]`.
POLICY_KEY = "repetition"
#: A choice's `stop_reason` in the answer; vLLM's own detection uses the same value.
STOP_REASON = "repetition_detected"
PROCESSOR = "server.engine.decoding.repetition_steering:SteeringProcessor"
"""The form that vLLM's engine argument `logits_processors` needs; the worker resolves it."""

_LINE_BREAKS = ("\n", "Ċ")  # byte-level vocabularies write a line feed as "Ċ"


@dataclasses.dataclass(frozen=True, slots=True)
class RepetitionPolicy:
    """The operator's figures for both actions."""

    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    adjustment: Adjustment = dataclasses.field(default_factory=Adjustment)

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> RepetitionPolicy:
        """From one flat mapping of figures; missing figures have their defaults.

        Raises:
            InvalidRepetitionPolicy: a figure is out of its range.
            TypeError: a figure is unknown.
        """
        names = {field.name for field in dataclasses.fields(Thresholds)}
        return cls(
            Thresholds(**{name: value for name, value in figures.items() if name in names}),
            Adjustment(**{name: value for name, value in figures.items() if name not in names}),
        )


class LoopWatch:
    """Detects loops in the answers of requests with repetition "stop", in the scheduler."""

    def __init__(self, config: VllmConfig) -> None:
        self._model = config.model_config
        self._thresholds = policy_in(config).thresholds

    def watches(self, request: Request) -> bool:
        """Whether the request has repetition "stop"; call `ends` only for such requests."""
        arguments = request.sampling_params.extra_args if request.sampling_params else None
        return arguments is not None and arguments.get(REPETITION_KEY) == "stop"

    def ends(self, request: Request, new_token_ids: Sequence[int]) -> bool:
        """Record an unfinished answer's new tokens; returns whether the answer ends here because it loops.

        The detector is an attribute of vLLM's request and ends with it. `min_tokens` is respected, as in vLLM's
        detection.
        """
        detector: RepetitionDetector | None = getattr(request, "loragate_detector", None)
        if detector is None:
            detector = request.loragate_detector = RepetitionDetector(self._thresholds, self._newlines)
        for token_id in new_token_ids:
            detector.push(token_id)
        if detector.verdict is None or request.num_output_tokens < request.sampling_params.min_tokens:
            return False
        request.status = RequestStatus.FINISHED_REPETITION
        request.stop_reason = STOP_REASON
        return True

    @cached_property
    def _newlines(self) -> frozenset[int]:
        return newline_ids(self._model)


class _Steered:
    """One answer with repetition "adjust"; `output_ids` is vLLM's own list, which grows."""

    def __init__(
        self,
        policy: RepetitionPolicy,
        params: SamplingParams,
        output_ids: list[int],
        newlines: frozenset[int],
    ) -> None:
        self._policy = policy.adjustment
        self._requested = SteeredOptions(params.repetition_penalty, params.temperature)
        self._detector = RepetitionDetector(policy.thresholds, newlines)
        self._output_ids = output_ids
        self._read = 0
        self._strength = 0.0

    def steer(self, row: torch.Tensor) -> None:
        """Change one row of logits [V] in place, before vLLM applies the requested options.

        vLLM applies the requested penalty and temperature afterwards, so this method applies only the ratio of the
        adjusted to the requested values. The raised penalty affects only tokens of the answer.
        """
        self._read_new_tokens()
        if self._strength == 0.0:
            return
        now = adjust(self._policy, self._requested, self._strength)
        factor = now.repetition_penalty / self._requested.repetition_penalty
        seen = torch.tensor(sorted(set(self._output_ids[: self._read])), device=row.device)
        scores = row[seen]
        row[seen] = torch.where(scores > 0, scores / factor, scores * factor)
        if self._requested.temperature > 0:
            row *= self._requested.temperature / now.temperature

    def _read_new_tokens(self) -> None:
        for token_id in self._output_ids[self._read :]:
            if token_id < 0:  # a position that asynchronous scheduling has not filled yet
                return
            self._detector.push(token_id)
            self._read += 1
            self._strength = next_strength(self._policy, self._strength, self._detector.closeness)


class SteeringProcessor(LogitsProcessor):
    """Raises penalty and temperature of answers with repetition "adjust" while they repeat themselves."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._policy = policy_in(vllm_config)
        self._newline_ids = newline_ids(vllm_config.model_config)
        self._steered: dict[int, _Steered] = {}

    def is_argmax_invariant(self) -> bool:
        """False: a raised penalty can change the most likely token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Track requests that enter, leave and move within the batch."""
        process_dict_updates(self._steered, batch_update, self._begin)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Steer the rows of steered answers in place; `logits` is [batch, V]."""
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
    """The operator's figures, which `server.engine.args` wrote into vLLM's configuration."""
    options = config.additional_config
    ours = options.get(STAMP_KEY, {}) if isinstance(options, dict) else {}
    return RepetitionPolicy.of(ours.get(POLICY_KEY, {}))


def newline_ids(model: ModelConfig) -> frozenset[int]:
    """The tokens whose text ends with a line break; empty without a tokenizer."""
    if model.skip_tokenizer_init:
        return frozenset()
    vocabulary: dict[str, int] = cached_tokenizer_from_config(model).get_vocab()
    return frozenset(token_id for text, token_id in vocabulary.items() if text.endswith(_LINE_BREAKS))

"""An answer whose grammar leaves no token, or takes too long, ends; it harms nothing else."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.request import RequestStatus
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

from server.engine.decoding.grammars import probe
from server.engine.decoding.grammars import watched_grammar as watched
from server.engine.decoding.grammars.errors import GrammarRefused, TooComplex
from server.engine.decoding.grammars.watched_grammar import DEAD_END, TOO_SLOW, WatchedGrammar, has_ended

END = 0


class Grammar(StructuredOutputGrammar):
    """Allows `allowed`, for as long as `seconds` of processor time; accepts what it allows."""

    def __init__(self, allowed: set[int], seconds: float = 0) -> None:
        self.allowed, self.seconds = allowed, seconds
        self.rolled_back = self.accepted = 0

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        self.accepted += len(tokens)
        return set(tokens) <= self.allowed

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        return [token for token in tokens if token in self.allowed]

    def rollback(self, num_tokens: int) -> None:
        self.rolled_back += num_tokens

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        began = time.thread_time()
        while time.thread_time() - began < self.seconds:
            pass
        bitmask[batch_index] = sum(1 << token for token in self.allowed)

    def is_terminated(self) -> bool:
        return False

    def reset(self) -> None:
        self.accepted = 0


def mask_of(grammar: WatchedGrammar) -> int:
    mask = torch.zeros((2, 1), dtype=torch.int32)
    grammar.fill_bitmask(mask, 1)
    assert int(mask[0, 0]) == 0
    return int(mask[1, 0])


def test_the_allowed_tokens_are_the_grammars() -> None:
    grammar = WatchedGrammar(Grammar({1, 3}))
    assert mask_of(grammar) == 0b1010 and grammar.failed is None
    assert grammar.accept_tokens("", [1, 3]) and grammar.validate_tokens([1, 2]) == [1]
    grammar.rollback(1)
    assert grammar.grammar.rolled_back == 1


def test_a_state_without_a_token_ends_the_answer() -> None:
    grammar = WatchedGrammar(Grammar(set()))
    assert mask_of(grammar) == -1 and grammar.failed == DEAD_END
    assert grammar.accept_tokens("", [5]) and grammar.validate_tokens([5]) == [5]
    grammar.rollback(1)
    assert grammar.grammar.accepted == grammar.grammar.rolled_back == 0
    grammar.reset()
    assert grammar.failed is None


def test_a_token_that_is_refused_ends_the_answer() -> None:
    grammar = WatchedGrammar(Grammar({1}))
    assert grammar.accept_tokens("", [2]) and grammar.failed == DEAD_END


def test_a_grammar_that_takes_too_long_ends_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "GRACE_S", 0.02)
    grammar = WatchedGrammar(Grammar({1}, seconds=0.03))
    assert mask_of(grammar) == -1 and grammar.failed == TOO_SLOW


@pytest.mark.parametrize("failed", [DEAD_END, None])
def test_only_a_request_whose_grammar_failed_has_ended(failed: str | None) -> None:
    grammar = WatchedGrammar(Grammar({1}))
    grammar.failed = failed
    request: Any = SimpleNamespace(structured_output_request=SimpleNamespace(grammar=grammar), status=None)
    assert has_ended(request) is (failed is not None)
    expected = RequestStatus.FINISHED_LENGTH_CAPPED if failed else None
    assert request.status is expected and getattr(request, "stop_reason", None) == failed


def test_a_request_without_a_grammar_goes_on() -> None:
    request: Any = SimpleNamespace(structured_output_request=None)
    assert not has_ended(request)


@pytest.mark.parametrize("allowed", [{END}, {3}])
def test_a_trial_takes_what_can_go_on_or_end(allowed: set[int]) -> None:
    probe.probe_grammar(lambda: Grammar(allowed), 32, "seed", END)


def test_a_trial_refuses_what_leaves_no_token() -> None:
    with pytest.raises(GrammarRefused, match="no answer"):
        probe.probe_grammar(lambda: Grammar(set()), 32, "seed", END)


def test_a_trial_refuses_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "GRACE_S", 0.02)
    with pytest.raises(TooComplex):
        probe.probe_grammar(lambda: Grammar({3}, seconds=0.03), 32, "seed", END)

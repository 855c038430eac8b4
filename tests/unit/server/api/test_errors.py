"""The table from errors to HTTP covers every error there is."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from adapters.errors import AdapterError
from sampling.errors import SamplingError
from server.api.errors import RULES, error_body, event_failure, retry_after_s, rule_of
from server.errors import EngineUnavailable, InternalError, InvalidRequest, LoragateError


def subclasses(cls: type[Exception]) -> Iterator[type[Exception]]:
    yield cls
    for child in cls.__subclasses__():
        yield from subclasses(child)


ALL = sorted({c for root in (LoragateError, AdapterError, SamplingError) for c in subclasses(root)}, key=str)


@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
def test_every_error_has_a_row(cls: type[Exception]) -> None:
    rule = next(RULES[c] for c in cls.__mro__ if c in RULES)
    assert 400 <= rule.status < 600
    assert cls.__doc__, "its docstring is its default message"


def test_the_shape() -> None:
    body = error_body(InvalidRequest("no", param="n", code="bad_n"))
    assert body["error"] == {"message": "no", "type": "invalid_request_error", "param": "n", "code": "bad_n"}
    assert error_body(EngineUnavailable())["error"]["code"] == "engine_unavailable"


@pytest.mark.parametrize(
    ("wanted", "given"),
    [(0, 1), (0.2, 1), (1.2, 2), (119.5, 120), (1e9, 120), (float("inf"), 120), (float("nan"), 120)],
)
def test_retry_after_is_one_the_sdk_honours(wanted: float, given: int) -> None:
    assert retry_after_s(wanted) == given


def test_errors_inside_events() -> None:
    def event(code: int, message: str) -> str:
        return (
            "data: "
            + json.dumps({"error": {"message": message, "type": "t", "param": None, "code": code}})
            + "\n\n"
        )

    assert event_failure('data: {"id": 1, "error": null}\n\n') is None
    assert event_failure("data: [DONE]\n\n") is None
    assert isinstance(event_failure(event(400, "bad")), InvalidRequest)
    assert isinstance(event_failure(event(500, "secret /root/path")), InternalError)
    assert isinstance(event_failure(event(500, "EngineCore encountered an issue")), EngineUnavailable)
    assert isinstance(event_failure('data: {"error": broken'), InternalError)


def test_rule_of_a_subclass_without_a_row() -> None:
    class Odd(InvalidRequest):
        """Odd."""

    assert rule_of(Odd("x")).status == 400

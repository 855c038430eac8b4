"""The table from errors to HTTP covers every error there is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from adapters.errors import AdapterError, NotFound
from sampling.errors import SamplingError
from server.api.errors import RULES, error_body, error_event, event_failure, retry_after_s, rule_of
from server.errors import (
    BodyTooLarge,
    EngineUnavailable,
    InternalError,
    InvalidRequest,
    LoragateError,
    ModelNotFound,
    Unauthenticated,
)


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


@pytest.mark.parametrize("cls", [cls for cls in ALL if rule_of(Exception.__new__(cls)).status == 404])
def test_a_404_names_what_was_not_found(cls: type[Exception]) -> None:
    """Only the root of the errors about names, which nobody raises, does not."""
    code = RULES[cls].code
    assert code.endswith("_not_found") or cls is NotFound, code


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


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no"), "invalid_request_error"),
        (ModelNotFound(), "not_found_error"),
        (Unauthenticated(), "authentication_error"),
        (BodyTooLarge(), "request_too_large"),
        (EngineUnavailable(), "overloaded_error"),
        (InternalError(), "api_error"),
    ],
)
def test_anthropics_routes_have_its_types_and_events(error: Exception, kind: str) -> None:
    body = error_body(error, "/v1/messages")
    assert body["type"] == "error" and body["error"]["type"] == kind
    assert body["error"] | {"type": ""} == error_body(error)["error"] | {"type": ""}
    event = error_event(error, "/v1/messages")
    # Its SDK passes over an event without a name, and would take a broken stream for a whole one.
    assert event == f"event: error\ndata: {json.dumps(body)}\n\n"
    assert isinstance(event_failure(event), InternalError)


class BrokenStream(BaseHTTPRequestHandler):
    """Answers with a stream that ends with our event of an error."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(error_event(EngineUnavailable(), self.path).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.slow
def test_the_official_clients_raise_on_the_event() -> None:
    import anthropic  # takes a second, and only this test needs it
    import openai

    hello: Any = [{"role": "user", "content": "Hello!"}]
    with ThreadingHTTPServer(("127.0.0.1", 0), BrokenStream) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{httpd.server_port}"
        claude = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
        with pytest.raises(anthropic.APIError, match="overloaded_error"):
            list(claude.messages.create(model="m", messages=hello, max_tokens=1, stream=True))
        gpt = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        with pytest.raises(openai.APIError, match="engine is not ready"):
            list(gpt.chat.completions.create(model="m", messages=hello, stream=True))
        httpd.shutdown()


def test_rule_of_a_subclass_without_a_row() -> None:
    class Odd(InvalidRequest):
        """Odd."""

    assert rule_of(Odd("x")).status == 400

"""The log's format on a terminal and elsewhere, and the warnings of vLLM that are none."""

from __future__ import annotations

import io
import logging
import logging.config
import sys

import pytest

from server.config.logs import VllmFilter, logging_config


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def formatter(log_format: str) -> str:
    return str(logging_config(log_format, "info")["formatters"]["line"]["()"]).rpartition(".")[2]


@pytest.mark.parametrize(
    ("stdout", "formats"),
    [
        (Terminal(), {"auto": "TextFormatter", "text": "TextFormatter", "json": "JsonFormatter"}),
        (io.StringIO(), {"auto": "JsonFormatter", "text": "TextFormatter", "json": "JsonFormatter"}),
    ],
    ids=["terminal", "pipe"],
)
def test_the_format(stdout: io.StringIO, formats: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    assert {name: formatter(name) for name in formats} == formats


def record(level: int, message: str, logger: str = "vllm.platforms.cpu") -> logging.LogRecord:
    return logging.LogRecord(logger, level, "file.py", 1, message, None, None)


def test_a_warning_that_means_nothing_here_is_lowered() -> None:
    shown = record(logging.WARNING, "Triton is not installed. triton-cpu is expected on x86 CPUs.")
    assert VllmFilter("info").filter(shown) and shown.levelname == "INFO"
    assert not VllmFilter("warning").filter(shown)


@pytest.mark.parametrize(
    "kept",
    [
        record(logging.WARNING, "The device is lost."),
        record(logging.WARNING, "Triton is not installed.", "vllm.other"),
        record(logging.ERROR, "Triton is not installed."),
    ],
    ids=["other text", "other logger", "error"],
)
def test_any_other_warning_stays(kept: logging.LogRecord) -> None:
    level = kept.levelno
    assert VllmFilter("warning").filter(kept) and kept.levelno == level


@pytest.mark.parametrize(
    ("log_format", "level", "least"),
    [
        ("text", "info", "warning"),
        ("text", "debug", "debug"),
        ("json", "info", "info"),
        ("text", "error", "error"),
    ],
)
def test_text_leaves_out_what_vllm_tells_of_each_step(log_format: str, level: str, least: str) -> None:
    assert logging_config(log_format, level)["filters"]["vllm"]["least"] == least


@pytest.mark.parametrize(("form", "end"), [("json", '"replica": "r1"}'), ("text", " n=1 replica=r1")])
def test_every_line_names_the_server_among_several(form: str, end: str) -> None:
    for replica in ("r1", ""):
        config = logging_config(form, "info", replica)
        made = logging.config.DictConfigurator(config).configure_formatter(config["formatters"]["line"])
        said = record(logging.INFO, "hello")
        if form == "text":
            said.n = 1  # type: ignore[attr-defined]
        assert made.format(said).endswith(end) is bool(replica)

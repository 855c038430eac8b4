"""Logging: one line per record on stdout, as JSON or text, for loragate, vLLM and uvicorn.

Leans on (vLLM 0.32) the beginnings of some of its messages (`_NO_WARNINGS`), which are shown at a lower level.
"""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

LogFormat = Literal["auto", "json", "text"]

#: Attributes that are no fields of a line: those of every record, and those that vLLM, uvicorn and Ray add.
_STANDARD = set(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "fileinfo", "vllm_process_name", "color_message", "_ray_timestamp_ns",
}  # fmt: skip

#: Logger of vLLM → beginnings of warnings that nobody who runs loragate can or should act upon: they are about
#: choices of this server, or about libraries that it loads in another way.
_NO_WARNINGS: dict[str, tuple[str, ...]] = {
    "vllm.config.scheduler": ("Using custom scheduler class",),
    "vllm.config.vllm": (
        "Enforce eager set",
        "Inductor compilation was disabled",
        "Model Runner V2 requires",
    ),
    "vllm.platforms.cpu": ("Triton is not installed",),
    "vllm.utils.torch_utils": ("OMP_NUM_THREADS=",),
    "vllm.v1.engine.input_processor": ("vLLM has deprecated support", "Passing raw prompts"),
    "vllm.v1.worker.cpu_worker": ("libtcmalloc is not found", "libiomp is not found"),
}


def is_for_people() -> bool:
    """Whether stdout is a terminal, so that a person reads it."""
    return sys.stdout.isatty()


class VllmFilter(logging.Filter):
    """Lowers vLLM's warnings that mean nothing here to INFO, and drops what is below `least` afterwards."""

    def __init__(self, least: str) -> None:
        super().__init__()
        self._least = logging.getLevelNamesMapping()[least.upper()]

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.levelno == logging.WARNING and record.getMessage().startswith(
            _NO_WARNINGS.get(record.name, ("\0",))
        ):
            record.levelno, record.levelname = logging.INFO, "INFO"
        return record.levelno >= self._least


class JsonFormatter(logging.Formatter):
    """One JSON object per line; the keys of `extra=` become fields.

    Args:
        replica: the server's name among several; each line has it.
    """

    def __init__(self, replica: str = "") -> None:
        super().__init__()
        self._fixed = {"replica": replica} if replica else {}

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **self._fixed,
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value …`, for people to read."""

    def __init__(self, replica: str = "") -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._end = f" replica={replica}" if replica else ""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        return super().format(record) + "".join(f" {key}={value}" for key, value in extra.items()) + self._end


_STDOUT = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}


def logging_config(log_format: str, level: str, replica: str = "") -> dict[str, Any]:
    """The `logging.config` dictionary; the engine's processes get the same one from vLLM.

    Text is for people: vLLM's own INFO lines, which describe each of its steps, are left out of it.
    """
    as_text = is_for_people() if log_format == "auto" else log_format == "text"
    formatter = "server.config.logs.TextFormatter" if as_text else "server.config.logs.JsonFormatter"
    vllm_least = "warning" if as_text and level == "info" else level
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter, "replica": replica}},
        "filters": {"vllm": {"()": "server.config.logs.VllmFilter", "least": vllm_least}},
        "handlers": {
            "out": _STDOUT,
            "vllm": {**_STDOUT, "filters": ["vllm"]},
        },
        "root": {"handlers": ["out"], "level": "WARNING"},
        "loggers": {
            "loragate": {"level": level.upper(), "handlers": ["out"], "propagate": False},
            "vllm": {"level": level.upper(), "handlers": ["vllm"], "propagate": False},
            "uvicorn": {"level": "WARNING", "handlers": ["out"], "propagate": False},
            "torch._library.triton": {"level": "ERROR"},  # it says that there is no Triton
        },
    }


def write_config(folder: Path, log_format: str, level: str, replica: str = "") -> Path:
    """Write the logging configuration of the engine's processes; returns the file.

    Their errors also go to `error_log(folder)`, because vLLM reports that a start failed, but not why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = logging_config(log_format, level, replica)
    config["formatters"]["json"] = {"()": "server.config.logs.JsonFormatter"}
    config["handlers"]["errors"] = {
        "class": "logging.FileHandler",
        "filename": str(error_log(folder)),
        "delay": True,
        "level": "ERROR",
        "formatter": "json",
    }
    config["loggers"]["vllm"]["handlers"].append("errors")
    path = folder / "logging.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def error_log(folder: Path) -> Path:
    """The file with the errors of the engine's processes since its last start, one JSON object per line."""
    return folder / "engine-errors.log"


def configure(log_format: str, level: str, replica: str = "") -> None:
    """Configure logging for this process."""
    logging.config.dictConfig(logging_config(log_format, level, replica))

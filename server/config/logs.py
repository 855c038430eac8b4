"""Logging: one line per record on stdout, as JSON or text, for loragate, vLLM and uvicorn."""

from __future__ import annotations

import json
import logging
import logging.config
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Attributes that are no fields of a line: those of every record, and those that vLLM, uvicorn and Ray add.
_STANDARD = set(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "fileinfo", "vllm_process_name", "color_message", "_ray_timestamp_ns",
}  # fmt: skip


class JsonFormatter(logging.Formatter):
    """One JSON object per line; the keys of `extra=` become fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value …`, for people to read."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        return super().format(record) + "".join(f" {key}={value}" for key, value in extra.items())


def logging_config(log_format: str, level: str) -> dict[str, Any]:
    """The `logging.config` dictionary; the engine's processes get the same one from vLLM."""
    formatter = (
        "server.config.logs.JsonFormatter" if log_format == "json" else "server.config.logs.TextFormatter"
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {
            "out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}
        },
        "root": {"handlers": ["out"], "level": "WARNING"},
        "loggers": {
            "loragate": {"level": level.upper(), "handlers": ["out"], "propagate": False},
            "vllm": {"level": level.upper(), "handlers": ["out"], "propagate": False},
            "uvicorn": {"level": "WARNING", "handlers": ["out"], "propagate": False},
        },
    }


def write_config(folder: Path, log_format: str, level: str) -> Path:
    """Write the logging configuration of the engine's processes; returns the file.

    Their errors also go to `error_log(folder)`, because vLLM reports that a start failed, but not why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = logging_config(log_format, level)
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


def configure(log_format: str, level: str) -> None:
    """Configure logging for this process."""
    logging.config.dictConfig(logging_config(log_format, level))

"""The models that may judge evaluations: the operator names them, and no caller can name another address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from server.config.secret_files import read_secret

if TYPE_CHECKING:
    from server.config.settings import Settings

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_FIELDS: Final = ("url", "model", "key_file")
_EXAMPLE: Final = (
    '{"large": {"url": "https://judge.example/v1", "model": "large", "key_file": "/run/secrets/judge"}}'
)


@dataclass(frozen=True, slots=True)
class JudgeModel:
    """A model behind an OpenAI-compatible endpoint; `key_file` has its API key."""

    url: str
    model: str
    key_file: Path | None = None

    def key(self) -> str:
        """The key, "" without a file. Raises: SettingsError: the file cannot be used."""
        return "" if self.key_file is None else read_secret("--judges: key_file", self.key_file)


def judges_of(settings: Settings) -> Mapping[str, JudgeModel]:
    """The judges by name. Raises: ValueError: the setting cannot be used; the message has no URL."""
    return {name: _judge(name, value) for name, value in settings.judges.items()}


def judge_keys(judges: Mapping[str, JudgeModel]) -> dict[str, str]:
    """The keys of all judges. Raises: SettingsError."""
    return {name: judge.key() for name, judge in judges.items()}


def _judge(name: str, value: Any) -> JudgeModel:
    if not _NAME.fullmatch(name):
        raise ValueError(f"--judges has the name {name!r}: use 1 to 32 letters, digits, '.', '_' and '-'.")
    if (
        not isinstance(value, Mapping)
        or not value.keys() <= set(_FIELDS)
        or not all(isinstance(field, str) and field for field in value.values())
    ):
        raise ValueError(f"--judges: {name} must have {', '.join(_FIELDS)} as text, as in {_EXAMPLE}.")
    if not {"url", "model"} <= value.keys() or not _is_http(value["url"]):
        raise ValueError(f"--judges: {name} needs a url (http or https) and a model, as in {_EXAMPLE}.")
    key_file = value.get("key_file")
    return JudgeModel(value["url"], value["model"], Path(key_file).expanduser() if key_file else None)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc

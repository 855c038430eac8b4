"""Errors of decoding options.

    SamplingError
    ├── RequestError              caused by the caller; has `param`
    │   ├── InvalidParameter
    │   │   └── UnsupportedParameter
    │   ├── UnknownPreset
    │   └── LimitExceeded
    │       └── BodyLimitExceeded
    └── ConfigurationError        caused by the operator
        ├── InvalidDefault
        ├── InvalidPreset
        ├── InvalidLimit
        ├── InvalidRepetitionPolicy
        └── NoEndToken

Messages contain the field, the value and the accepted range; they quote only input of the caller or operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_QUOTED_CHARACTERS = 80


def quote(value: Any) -> str:
    """The value in Python's notation, cut to a length that fits into a message."""
    text = repr(value)
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[: _QUOTED_CHARACTERS - 1]}…"


class SamplingError(Exception):
    """Base class: a decoding option is invalid."""


class RequestError(SamplingError):
    """A request has an option that the server refuses."""

    param: str

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class InvalidParameter(RequestError):
    """A field has a value of the wrong type or out of its range."""

    def __init__(self, param: str, value: Any, expected: str, *, message: str | None = None) -> None:
        super().__init__(param, message or f"{param} must be {expected}, got {quote(value)}.")
        self.value = value
        self.expected = expected


class UnsupportedParameter(InvalidParameter):
    """A decoding option was sent to an endpoint that does not support it."""

    def __init__(self, param: str, value: Any, path: str, instead: str) -> None:
        message = f"{param} is not supported by {path}, got {quote(value)}. {instead}"
        super().__init__(param, value, "left out", message=message)


class UnknownPreset(RequestError):
    """The request names an unknown preset."""

    def __init__(self, name: str, nearest: str | None, known: Sequence[str]) -> None:
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        listed = ", ".join(known) or "none"
        super().__init__("preset", f"There is no preset {quote(name)}.{hint} Presets: {listed}.")


class LimitExceeded(RequestError):
    """A request exceeds a limit of the operator."""

    def __init__(self, param: str, value: int, limit: int, *, counted: str | None = None) -> None:
        what = counted or param
        super().__init__(param, f"{what} is {value}, above this server's limit of {limit} for this key.")
        self.value = value
        self.limit = limit


class BodyLimitExceeded(LimitExceeded):
    """A request's body is larger than the server reads for one request."""

    def __init__(self, name: str, value: int, limit: int, counted: str, param: str) -> None:
        RequestError.__init__(
            self,
            param,
            f"The request has {value} {counted}; at most {limit} are allowed (limit {name!r} of the server or of "
            "your tenant). Send less, or ask the operator to raise it.",
        )
        self.value = value
        self.limit = limit
        self.name = name


class ConfigurationError(SamplingError):
    """The operator's decoding settings are invalid."""


class InvalidDefault(ConfigurationError):
    """A layer or preset sets an unknown field, or a value that no request could send."""

    def __init__(self, origin: str, param: str, problem: str) -> None:
        super().__init__(f"{origin}: {param} {problem}")
        self.origin = origin
        self.param = param


class InvalidPreset(ConfigurationError):
    """A custom preset has an invalid name."""


class InvalidLimit(ConfigurationError):
    """A limit is not a positive integer."""


class InvalidRepetitionPolicy(ConfigurationError):
    """The thresholds or bounds of repetition handling are invalid."""


class NoEndToken(ConfigurationError):
    """The model's files define no token that ends an answer."""

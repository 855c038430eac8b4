"""Domain errors of the server. They know no HTTP: `server/api/errors.py` holds the one table.

LoragateError
├── SettingsError         a flag, environment variable or file that cannot be used
├── Unauthenticated       no key, or one we do not know
├── TooManyAttempts       this address has sent too many wrong keys
├── Forbidden             the key is real and its role does not reach this
├── ModelNotFound         no such model for this tenant
├── UnknownRequest        no such request of this tenant, or too long ago
├── InvalidRequest        the body cannot be served as it stands
├── BodyTooLarge          the body is above --max-body-bytes
├── AdapterUnavailable    the adapter is there and cannot be loaded
├── BodyTooSlow           the body did not arrive within --read-timeout-s
├── InternalError         a fault of ours; the log has it under the request's id
├── EngineUnavailable     the engine is starting, restarting or dead
└── Draining              the server is shutting down
"""

from __future__ import annotations


class LoragateError(Exception):
    """Something went wrong that loragate foresaw."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or type(self).__name__)


class SettingsError(LoragateError):
    """A setting cannot be used."""


class Unauthenticated(LoragateError):
    """The API key is missing or not valid."""


class TooManyAttempts(LoragateError):
    """Too many wrong API keys came from this address; keys that are right still work from there."""

    def __init__(self, message: str | None = None, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Forbidden(LoragateError):
    """This API key may not do that."""


class ModelNotFound(LoragateError):
    """The model does not exist or you do not have access to it."""


class UnknownRequest(LoragateError):
    """There is no request with this id that you may rate."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"There is no request {request_id[:160]!r} of yours; feedback is taken for the last 10,000 answers since "
            "the server started."
        )


class InvalidRequest(LoragateError):
    """The request cannot be served as it stands."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class BodyTooLarge(LoragateError):
    """The request body is too large."""


class AdapterUnavailable(LoragateError):
    """The adapter of a model cannot be loaded at present."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The adapter {name} cannot be loaded; whoever manages it finds the reason in the server's log "
            "and may add it again."
        )
        self.headers = {"x-should-retry": "false"}


class BodyTooSlow(LoragateError):
    """The request body did not arrive in time."""


class InternalError(LoragateError):
    """The server failed to serve this request; its log has the reason under the request's id."""


class EngineUnavailable(LoragateError):
    """The engine is not ready."""

    def __init__(self, message: str | None = None, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(EngineUnavailable):
    """The server is shutting down; send the request to another one."""

"""Domain errors of the server. They do not know HTTP: `server/api/errors.py` maps them to it.

LoragateError
├── SettingsError         a flag, environment variable or file that cannot be used
├── Unauthenticated       the key is missing or unknown
├── TooManyAttempts       this address has sent too many wrong keys
├── Forbidden             the key is valid, but its role does not allow this
├── SignInFailed          the provider's answer is not valid, or belongs to another sign-in
├── SignInRefused         the provider knows the person, but no rule gives a role
├── ProviderUnavailable   the provider of sign-in does not answer
├── ModelNotFound         the tenant has no such model
├── UnknownRequest        the tenant has no such request, or it is too old
├── UnknownResponse       no answer is stored, so none can be continued
├── InvalidRequest        the body is not valid
├── TooManyLargeRequests  the tenant has too many large requests waiting to be read
├── HeadTooLarge          request line and headers are above 64 KiB
├── BodyTooLarge          the body is above --max-body-bytes
├── AdapterUnavailable    the adapter exists, but it cannot be loaded
├── BodyTooSlow           the body did not arrive within --read-timeout-s
├── InternalError         a fault of the server; the log has it under the request's id
├── EngineUnavailable     the engine is starting, restarting or dead
│   ├── EngineStalled     it is restarted because it made no progress
│   └── Draining          the server is shutting down
"""

from __future__ import annotations


class LoragateError(Exception):
    """An error that loragate expects and explains."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or type(self).__name__)


class SettingsError(LoragateError):
    """A setting cannot be used."""


class Unauthenticated(LoragateError):
    """The API key is missing or not valid."""


class TooManyAttempts(LoragateError):
    """This address has sent too many wrong API keys; valid keys still work from it."""

    def __init__(self, message: str | None = None, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Forbidden(LoragateError):
    """This API key does not allow that."""


class SignInFailed(LoragateError):
    """The sign-in did not succeed."""


class SignInRefused(LoragateError):
    """The person is known to the provider and has no role here."""


class ProviderUnavailable(LoragateError):
    """The provider of sign-in cannot be reached; try again shortly, or use a key, which needs no provider."""


class ModelNotFound(LoragateError):
    """The model does not exist or you do not have access to it."""


class UnknownRequest(LoragateError):
    """There is no request with this id that you may rate or look at; `kept` says which there are."""

    def __init__(
        self,
        request_id: str,
        kept: str = "feedback is accepted for a tenant's last 10,000 answers since the server started.",
    ) -> None:
        super().__init__(f"You have no request {request_id[:160]!r}; {kept}")


class UnknownResponse(LoragateError):
    """No answer is stored under this id: the server stores none."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message)
        self.param = "previous_response_id"


class InvalidRequest(LoragateError):
    """The request is not valid."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class TooManyLargeRequests(LoragateError):
    """The tenant has as many large requests waiting to be read as it may."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = 2.0


class HeadTooLarge(LoragateError):
    """The request line and the headers are too large."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The request line and the headers have more than {limit_bytes} bytes. Send a shorter URL, or fewer or "
            "shorter headers."
        )


class BodyTooLarge(LoragateError):
    """The request body is too large."""


class AdapterUnavailable(LoragateError):
    """The adapter of a model cannot be loaded at present."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The adapter {name} cannot be loaded; its operator can find the reason in the server's log and add the "
            "version again."
        )
        self.headers = {"x-should-retry": "false"}


class BodyTooSlow(LoragateError):
    """The request body did not arrive in time."""


class InternalError(LoragateError):
    """The server could not serve this request; its log has the reason under the request's id."""


class EngineUnavailable(LoragateError):
    """The engine is not ready."""

    def __init__(self, message: str | None = None, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineStalled(EngineUnavailable):
    """The engine made no progress for too long and is restarted; try again shortly."""


class Draining(EngineUnavailable):
    """The server is shutting down; send the request to another one."""

"""Translates vLLM's failures into our errors.

Leans on (vLLM 0.32): vllm.exceptions, vllm.v1.engine.exceptions, create_error_response, clean_loc_for_param and
sanitize_message of vllm.entrypoints.serve.exception_handling.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.exception_handling.handlers.validation import clean_loc_for_param
from vllm.entrypoints.serve.exception_handling.utils import sanitize_message
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError

from adapters.errors import AdapterError
from sampling.errors import RequestError
from server.errors import (
    EngineUnavailable,
    InternalError,
    InvalidRequest,
    LoragateError,
    ModelNotFound,
    UnknownResponse,
)

logger = logging.getLogger("loragate.engine")

_STORES_NOTHING = "This server stores no answers: send the earlier turns in `input`."
_TOO_LONG = ("maximum context length", "context length", "longer than the maximum model length")


def translate_failure(failure: BaseException | ErrorResponse) -> LoragateError | AdapterError | RequestError:
    """The error that the caller gets for a failure that vLLM raised or returned."""
    if isinstance(failure, LoragateError | AdapterError | RequestError):
        return failure
    if isinstance(failure, EngineDeadError):
        return EngineUnavailable()
    if isinstance(failure, BaseExceptionGroup):
        return translate_failure(failure.exceptions[0])
    if isinstance(failure, ErrorResponse):
        answer = failure
    elif isinstance(failure, Exception):
        answer = create_error_response(failure)
    else:
        return InternalError()
    return _by_status(answer, failure)


def translate_validation_error(error: ValidationError, *, field: str | None = None) -> InvalidRequest:
    """The first error of a request body, or of one `field` of it, as one sentence with the field's dotted path."""
    fault = error.errors(include_url=False, include_input=False)[0]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, VLLMValidationError):
        return InvalidRequest(sanitize_message(str(cause)), param=cause.parameter)
    place = (field, *fault["loc"]) if field else fault["loc"]
    param = clean_loc_for_param(place) if place else None
    text = fault["msg"].removeprefix("Value error, ")
    return InvalidRequest(sanitize_message(f"{param}: {text}" if param else text), param=param)


def _by_status(answer: ErrorResponse, failure: BaseException | ErrorResponse) -> LoragateError:
    status, text, param = answer.error.code, answer.error.message, answer.error.param
    if status == 404:
        return UnknownResponse(f"{text} {_STORES_NOTHING}") if param == "response_id" else ModelNotFound(text)
    if status == 503:
        return EngineUnavailable(text)
    if status >= 500 and status != 501:
        logger.error(
            "The engine's handler failed: %s",
            text,
            exc_info=failure if isinstance(failure, Exception) else None,
        )
        return InternalError()
    code = "context_length_exceeded" if any(hint in text for hint in _TOO_LONG) else "invalid_request"
    return InvalidRequest(text, param=param, code=code)

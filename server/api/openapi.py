"""/openapi.json: the whole HTTP API, including the routes whose bodies vLLM parses, which FastAPI does not know.

The schemas of those bodies have the main fields and those that we check; vLLM's own models accept more, so they allow
additional fields.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sampling.endpoints import Endpoint
from server.request import batch

_TEXT: Final = {"type": "string"}
_MESSAGES: Final = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["system", "user", "assistant", "tool"]}, "content": _TEXT},
        "required": ["role", "content"],
    },
}
_MANY_TOKENS: Final = {"type": "integer", "minimum": 1}
_COMMON: Final = {
    "model": {
        "type": "string",
        "description": "`<tenant>-<adapter>`, with `@<version>` one version; or the base. Without it "
        "the only model that the key may call.",
    },
    "adapters": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "scale": {"type": "number", "default": 1}},
        },
        "description": "Adapters that answer together, each with a scale, instead of `model`'s alone.",
    },
    "stream": {"type": "boolean", "default": False},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
}
#: Endpoint -> description, own fields, required fields.
_GENERATING: Final[dict[Endpoint, tuple[str, dict[str, Any], list[str]]]] = {
    Endpoint.CHAT: (
        "OpenAI's chat completions, with tools, JSON schemas, logprobs, n and streams.",
        {"messages": _MESSAGES, "max_tokens": _MANY_TOKENS, "n": _MANY_TOKENS, "tools": {"type": "array"}},
        ["messages"],
    ),
    Endpoint.COMPLETIONS: (
        "OpenAI's completions of a plain prompt.",
        {"prompt": _TEXT, "max_tokens": _MANY_TOKENS, "n": _MANY_TOKENS},
        ["prompt"],
    ),
    Endpoint.RESPONSES: (
        "OpenAI's responses; nothing is stored.",
        {"input": _TEXT, "max_output_tokens": _MANY_TOKENS},
        ["input"],
    ),
    Endpoint.MESSAGES: (
        "Anthropic's messages.",
        {"messages": _MESSAGES, "max_tokens": _MANY_TOKENS, "system": _TEXT},
        ["messages", "max_tokens"],
    ),
}
_BATCH: Final = (
    "vLLM's batch: several chats in one request, answered by one choice for each; no streams.",
    {"messages": {"type": "array", "minItems": 1, "items": _MESSAGES}, "max_tokens": _MANY_TOKENS},
)
#: vLLM writes these answers, with the models of its own wire protocol.
_ANSWERS: Final = {
    "application/json": {
        "schema": {"type": "object", "description": "As the API's own reference describes it."}
    },
    "text/event-stream": {"schema": {"type": "string", "description": "With `stream`: server-sent events."}},
}
#: Bodies that our own routes parse without a model.
_BY_HAND: Final[dict[str, dict[str, Any]]] = {
    "/tokenize": {"model": _TEXT, "prompt": _TEXT, "messages": _MESSAGES},
    "/detokenize": {"model": _TEXT, "tokens": {"type": "array", "items": {"type": "integer"}}},
    "/v1/messages/count_tokens": {"model": _TEXT, "messages": _MESSAGES, "system": _TEXT},
}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": _TEXT,
            },
        }
    },
}
_ERROR_ANSWER: Final = {
    "description": "An error.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_OPEN_ROUTES: Final = ("/health", "/ready", "/version", "/metrics")


def install(app: FastAPI) -> None:
    """Let `app.openapi()` and /openapi.json show the whole API."""

    def whole() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _schema(app)
        return app.openapi_schema

    app.openapi = whole  # type: ignore[method-assign]


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    paths = schema["paths"]
    for endpoint, (summary, fields, required) in _GENERATING.items():
        paths[endpoint.path] = {"post": _operation(endpoint.value, summary, {**_COMMON, **fields}, required)}
    summary, fields = _BATCH
    paths[batch.PATH] = {"post": _operation("chat_batch", summary, {**_COMMON, **fields}, ["messages"])}
    for path, fields in _BY_HAND.items():
        paths[path]["post"]["requestBody"] = _json_body(fields, [])
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Error"] = _ERROR
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's 422
        schemas.pop(unused, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in paths.items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # ours are 400
            operation["responses"]["default"] = _ERROR_ANSWER
            operation["security"] = [] if path in _OPEN_ROUTES else [{"key": []}]
    return schema


def _operation(name: str, summary: str, fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "tags": ["models"],
        "operationId": name,
        "description": summary,
        "requestBody": _json_body(fields, required),
        "responses": {"200": {"description": "The answer.", "content": _ANSWERS}},
    }


def _json_body(fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": fields}
    if required:
        schema["required"] = required
    return {"required": True, "content": {"application/json": {"schema": schema}}}

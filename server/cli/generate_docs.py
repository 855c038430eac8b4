"""The documents that are made from the code: `python -m server.cli.generate_docs docs`.

configuration.md from the settings, commands.md from the command line, metrics.md from the declared series, api.md
from the OpenAPI schema and the table of errors. A test holds each to what is made here: nothing goes undocumented.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
from fastapi import FastAPI

from server.config.settings import ENV_PREFIX, Settings
from server.observability.metrics import SERIES

_CONFIGURATION: Final = """# Configuration

Made from `server/config/settings.py` by `make docs`; do not edit it here.

A value comes from the first of: the flag, the environment variable, the file named by `--config` (TOML, the
names below with underscores as keys), the default. An unknown variable that begins with `LORAGATE_` is an error.
`LORAGATE_URL` and `LORAGATE_KEY` are read by `loragate adapter` alone: the server to ask, and the key.

| flag | variable | default | meaning |
|---|---|---|---|
"""
_COMMANDS: Final = """# Commands

Made from the command line by `make docs`; do not edit it here. `loragate serve` takes every setting of
[configuration.md](configuration.md) as a flag; `loragate bench` hands its arguments to `python -m benchmarks`.
Every listing takes `--json`. Exit codes: 0 done, 1 it failed, 2 it was called wrongly.
"""
_METRICS: Final = """# Metrics

Made from `server/observability/metrics.py` by `make docs`; do not edit it here. vLLM's own series (`vllm:…`)
stand beside these on `/metrics`, unchanged.

Adapter and version "" are the base model, tenant "" is an operator. The busiest label sets, at most
`--metrics-label-sets`, have series of their own; all others share `other`. One that falls out loses its series and
begins at zero should it come back, as after a restart. What the scheduler counts begins at zero with each engine.

| series | kind | labels | meaning |
|---|---|---|---|
"""
_API: Final = """# HTTP API

Made from the OpenAPI schema (`/openapi.json` of a running server) by `make docs`; do not edit it here.

Keys go as `Authorization: Bearer …` (or `x-api-key`). Every response has `x-request-id`; a harmless one that the
request names is taken over. Limits that a tenant has are told in `x-ratelimit-*`. Decoding options stand in
[decoding.md](decoding.md).
"""
_ERRORS: Final = """
## Errors

`{"error": {"message", "type", "param", "code"}}`, always; in the middle of a stream as an event
`data: {"error": …}`, then `data: [DONE]`. 401 carries `WWW-Authenticate`; 429 and 503 a `Retry-After` between 1 and
120 seconds.

| code | status | type | when |
|---|---|---|---|
"""
#: Codes that have no class of their own, or whose class speaks to its caller in Python rather than to a client;
#: `tests/unit/test_docs.py` looks for others in the source.
_BAD: Final = "invalid_request_error"
_FURTHER_CODES: Final = (
    ("adapter_error", 400, _BAD, "Something is wrong with what was asked of an adapter; the message says what."),
    ("bad_request", 400, _BAD, "The request is not HTTP as it should be."),
    ("context_length_exceeded", 400, _BAD, "Prompt and answer are longer than the model's context."),
    ("internal_error", 500, "server_error", "A fault of ours; the log has it under the request's id."),
    ("invalid_json", 400, _BAD, "The body is not a JSON object."),
    ("load_failed", 400, _BAD, "The engine refused the adapter."),
    ("messages_not_kept", 400, _BAD, "The server keeps no messages of rated answers: see --keep-feedback-messages."),
    ("method_not_allowed", 405, _BAD, "The route has other methods."),
    ("rate_limit_exceeded", 429, "rate_limit_error", "rpm or tpm is used up for now."),
)  # fmt: skip


class _Unasked:
    """Stands where routes would ask the server: they are listed here, never called."""

    def __getattr__(self, name: str) -> _Unasked:
        return self

    def __call__(self, *arguments: Any, **named: Any) -> _Unasked:
        return self


def configuration() -> str:
    """docs/configuration.md."""
    return _CONFIGURATION + "".join(_setting(name) for name in Settings.model_fields)


def _setting(name: str) -> str:
    field = Settings.model_fields[name]
    default = "" if field.default in (None, "", {}) else f"`{field.default}`"
    meaning = _cell(field.description or "")
    return f"| `--{name.replace('_', '-')}` | `{ENV_PREFIX}{name.upper()}` | {default} | {meaning} |\n"


def metrics() -> str:
    """docs/metrics.md."""
    rows = (
        f"| `{series.exposed_name}` | {series.kind} | {', '.join(series.labels)} | {_cell(series.help)} |\n"
        for series in SERIES.values()
    )
    return _METRICS + "".join(rows)


def commands() -> str:
    """docs/commands.md."""
    from server.cli.main import main

    return _COMMANDS + "".join(_command(path, command) for path, command in walk_commands(main, "loragate"))


def walk_commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            yield from walk_commands(below, f"{path} {name}")


def _command(path: str, command: click.Command) -> str:
    help_text = inspect.cleandoc(command.help or "")
    text = [f"\n## `{path}`\n\n{help_text}\n"]
    if path == "loragate serve" or isinstance(command, click.Group):
        return text[0]
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    if arguments:
        text.append(
            f"\nArguments: {' '.join(argument.make_metavar(click.Context(command)) for argument in arguments)}\n"
        )
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    if options:
        text.append("\n| option | meaning |\n|---|---|\n")
        text += [f"| `{'/'.join(option.opts)}` | {_cell(option.help or '')} |\n" for option in options]
    return "".join(text)


def api() -> str:
    """docs/api.md."""
    return _API + "".join(_tagged(openapi())) + _ERRORS + "".join(_errors())


@functools.cache
def application() -> FastAPI:
    """The application without a server: its routes can be listed."""
    from server.app.composition import make_app

    nobody: Any = _Unasked()
    return make_app(nobody)


def openapi() -> dict[str, Any]:
    """The schema of the whole API."""
    schema: dict[str, Any] = application().openapi()
    return schema


def _tagged(schema: dict[str, Any]) -> Iterator[str]:
    tag = None
    operations = [
        (operation.get("tags", [""])[0], path, method, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    for kind, path, method, operation in sorted(operations, key=lambda entry: entry[:3]):
        if kind != tag:
            tag = kind
            yield f"\n## {kind.capitalize()}\n\n| route | takes | what it does |\n|---|---|---|\n"
        meaning = _cell(operation.get("description", ""))
        yield f"| `{method.upper()} {path}` | {_takes(schema, operation)} | {meaning} |\n"


def _takes(schema: dict[str, Any], operation: dict[str, Any]) -> str:
    """Query parameters and fields of the body; those that must be there without a question mark."""
    named = [
        f"{parameter['name']}{'' if parameter.get('required') else '?'}"
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    ]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        body = content["schema"]
        if "$ref" in body:
            body = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
        required = body.get("required", ())
        named += [f"{field}{'' if field in required else '?'}" for field in body.get("properties", {})]
    return " ".join(f"`{name}`" for name in named)


def _errors() -> Iterator[str]:
    from server.api.errors import RULES

    rows = {
        rule.code: (rule.code, rule.status, rule.type, (cls.__doc__ or "").strip().splitlines()[0])
        for cls, rule in reversed(RULES.items())
    }
    rows |= {row[0]: row for row in _FURTHER_CODES}
    for code, status, kind, meaning in sorted(rows.values()):
        yield f"| `{code}` | {status} | `{kind}` | {_cell(meaning)} |\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


DOCUMENTS: Final[dict[str, Callable[[], str]]] = {
    "configuration.md": configuration,
    "commands.md": commands,
    "metrics.md": metrics,
    "api.md": api,
}


def main(arguments: Sequence[str]) -> None:
    """Write all documents into the folder given."""
    for name, make in DOCUMENTS.items():
        (Path(arguments[0]) / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

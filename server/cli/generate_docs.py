"""Hooks of the documentation site (`mkdocs.yml`): tables and the OpenAPI schema, made from the code at each build.

A page asks for a table with a line such as `<!-- table: settings -->`; TABLES has the names. The test in
`tests/unit/test_docs.py` checks that every setting, metric, route and error code is documented.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import click
from fastapi import FastAPI

from server.api.errors import RULES
from server.config.settings import Settings
from server.config.variables import ENV_PREFIX
from server.observability.metrics import SERIES

_MARKER: Final = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)
_BAD: Final = "invalid_request_error"
#: Error codes without a class of their own, or whose class describes itself to Python callers, not to HTTP clients.
_FURTHER_CODES: Final = (
    ("adapter_error", 400, _BAD, "The request about an adapter cannot be served; the message gives the reason."),
    ("bad_request", 400, _BAD, "The request is not valid HTTP."),
    ("context_length_exceeded", 400, _BAD, "Prompt and answer are longer than the model's context."),
    ("internal_error", 500, "server_error", "A fault of the server; the log has it under the request's id."),
    ("grammar_too_complex", 400, _BAD, "The schema or grammar takes too much time or memory to compile."),
    ("invalid_grammar", 400, _BAD, "The schema or grammar cannot be enforced, or accepts nothing."),
    ("invalid_json", 400, _BAD, "The body is not a JSON object."),
    ("load_failed", 400, _BAD, "The engine refused the adapter."),
    ("messages_missing", 400, _BAD, "A `rejected` answer came without the `messages` that it answers."),
    ("messages_not_kept", 400, _BAD, "The server stores no chats of rated answers: see --keep-feedback-messages."),
    ("method_not_allowed", 405, _BAD, "The route exists, but not with this method."),
    ("rate_limit_exceeded", 429, "rate_limit_error", "The tenant's rpm or tpm is used up for now."),
)  # fmt: skip


class _NoServer:
    """Takes the server's place: the routes are listed, never called."""

    def __getattr__(self, name: str) -> _NoServer:
        return self

    def __call__(self, *arguments: Any, **named: Any) -> _NoServer:
        return self


@functools.cache
def application() -> FastAPI:
    """The application without a server behind it."""
    from server.app.routes import make_app

    no_server: Any = _NoServer()
    return make_app(no_server)


def openapi() -> dict[str, Any]:
    """The OpenAPI schema of all routes."""
    schema: dict[str, Any] = application().openapi()
    return schema


def walk_commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it, such as "loragate adapter add"."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            yield from walk_commands(below, f"{path} {name}")


def settings_table() -> str:
    """All settings: flag, environment variable, default, meaning."""
    rows = (
        (
            f"`--{name.replace('_', '-')}`",
            f"`{ENV_PREFIX}{name.upper()}`",
            "" if field.default in (None, "", {}) else f"`{field.default}`",
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    )
    return _table(("flag", "variable", "default", "meaning"), rows)


def metrics_table() -> str:
    """All series of our own: name, kind, labels, meaning."""
    rows = ((f"`{s.exposed_name}`", s.kind, ", ".join(s.labels), s.help) for s in SERIES.values())
    return _table(("series", "kind", "labels", "meaning"), rows)


def errors_table() -> str:
    """All error codes: code, status, type, and when it is sent."""
    rows = {
        rule.code: (rule.code, rule.status, rule.type, (cls.__doc__ or "").strip().splitlines()[0])
        for cls, rule in reversed(RULES.items())
    } | {row[0]: row for row in _FURTHER_CODES}
    cells = (
        (f"`{code}`", str(status), f"`{kind}`", text) for code, status, kind, text in sorted(rows.values())
    )
    return _table(("code", "status", "type", "when"), cells)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


TABLES: Final[dict[str, Callable[[], str]]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "errors": errors_table,
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Hook of mkdocs: put the tables into a page. Raises KeyError for a table that does not exist."""
    return _MARKER.sub(lambda marker: TABLES[marker[1]](), markdown)


def on_files(files: Any, config: Any) -> None:
    """Hook of mkdocs: add openapi.json to the site."""
    from mkdocs.structure.files import File  # only `make docs` installs it

    files.append(File.generated(config, "openapi.json", content=json.dumps(openapi())))


def on_page_content(html: str, **_: object) -> str:
    """Hook of mkdocs: mkdocs-click 0.9 prints click 8.3's marker for "no default" as if it were a value."""
    return html.replace("<code>Sentinel.UNSET</code>", "")

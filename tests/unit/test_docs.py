"""Nothing that a user can meet is undocumented: flags, variables, routes, metrics, error codes."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from server.api.errors import RULES
from server.cli.generate_docs import DOCUMENTS, application, openapi, walk_commands
from server.cli.main import main
from server.config.settings import Settings
from server.observability.metrics import SERIES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_documents_are_up_to_date(name: str) -> None:
    assert text_of(name) == DOCUMENTS[name](), "run `make docs`"


def test_every_document_is_reachable_from_the_readme_or_another() -> None:
    texts = {
        path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    }
    for path in texts:
        if path.name == "README.md" or "decisions" in path.parts:
            continue
        assert any(path.name in text for other, text in texts.items() if other != path), path


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_setting_has_a_meaning() -> None:
    document = text_of("configuration.md")
    for name, field in Settings.model_fields.items():
        assert field.description and f"`--{name.replace('_', '-')}`" in document, name


def test_every_command_and_option_has_a_meaning() -> None:
    document = text_of("commands.md")
    for path, command in walk_commands(main, "loragate"):
        assert command.help and f"## `{path}`" in document, path
        for option in command.params:
            if isinstance(option, click.Option) and path not in ("loragate serve", "loragate"):
                assert option.help, f"{path} {option.name}"
                assert isinstance(command, click.Group) or f"`{'/'.join(option.opts)}`" in document


def test_every_route_is_documented() -> None:
    document = text_of("api.md")
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path} says nothing of what it does"
            assert f"`{method.upper()} {path}`" in document


def test_what_the_schema_leaves_out_is_the_console_and_the_schema_itself() -> None:
    hidden = {route.path for route in application().routes if not route.include_in_schema}  # type: ignore[attr-defined]
    assert {path for path in hidden if not path.startswith("/console")} == {"/openapi.json"}
    assert "`/console`" in text_of("operations.md") and "/openapi.json" in text_of("api.md")


def test_every_metric_is_documented() -> None:
    document = text_of("metrics.md")
    assert all(f"`{series.exposed_name}`" in document for series in SERIES.values())


def test_every_error_code_is_documented() -> None:
    codes = {rule.code for rule in RULES.values()}
    for file in (ROOT / "server").rglob("*.py"):
        codes |= set(re.findall(r'code="([a-z_]+)"', file.read_text(encoding="utf-8")))
    document = text_of("api.md")
    assert {code for code in codes if f"| `{code}` |" not in document} == set()


def test_texts_name_no_series_and_no_flag_that_does_not_exist() -> None:
    """What was renamed in the code is renamed in the prose."""
    flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    flags |= {opt for _, command in walk_commands(main, "") for p in command.params for opt in p.opts}
    names = {series.exposed_name for series in SERIES.values()}
    for file in ("operations.md", "security.md", "upgrading.md", "architecture.md"):
        text = text_of(file)
        prefixes = "|".join(sorted({name.split("_")[1] for name in names}))
        named = set(re.findall(rf"\bloragate_(?:{prefixes})_?\w*", text.split("## Notes")[0]))
        assert named <= names | {f"{name}_bucket" for name in names}, f"{file}: {named - names}"
        for flag in re.findall(r"`loragate [^`]*?(--[a-z][a-z-]+)", text):
            assert flag in flags, f"{file}: {flag}"

"""Everything that a user can meet is documented: settings, commands, routes, metrics, error codes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from sampling.endpoints import Endpoint
from server.api.errors import RULES
from server.cli.generate_docs import TABLES, application, on_page_markdown, openapi, walk_commands
from server.cli.main import main
from server.config.settings import Settings
from server.observability.metrics import SERIES
from server.request import batch

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*sorted(ROOT.glob("*.md")), *PAGES]


def built(name: str) -> str:
    """The page as the site shows it, with its tables."""
    return on_page_markdown((DOCS / name).read_text(encoding="utf-8"))


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as mkdocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def navigation(entries: list[Any]) -> list[str]:
    """The pages that mkdocs.yml lists, in order."""
    pages: list[str] = []
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            pages += navigation(value) if isinstance(value, list) else [value]
    return pages


def test_every_page_is_in_the_navigation() -> None:
    nav = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(nav) == [page.relative_to(DOCS).as_posix() for page in PAGES]


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", file.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = file.parent / path if path else file
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(file: Path) -> None:
    """Paths in `code` that begin with a folder of ours."""
    if file.name == "CHANGELOG.md":
        return
    folders = "server|adapters|sampling|benchmarks|demo|examples|tests|deploy|docs|requirements"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", file.read_text(encoding="utf-8")):
        assert (ROOT / path).exists() or path == "adapters/sha256/", path


def test_what_github_looks_for_is_there() -> None:
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").split()[:2] == ["Apache", "License"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert any(".ci/run" in step.get("run", "") for step in workflow["jobs"]["ci"]["steps"])
    on_github = " ".join(workflow["jobs"]["ci"]["strategy"]["matrix"]["targets"]).split()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (parts,) = re.findall(r"\$\(MAKE\) --no-print-directory (.*)", makefile)
    assert set(on_github) == {"lint", "docs", *parts.split()}, "together they are what `.ci/run` runs"
    for template in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(template.read_text(encoding="utf-8"))


def test_hooks_run_what_the_lint_runs() -> None:
    """From .venv, so that their versions are those of the lock."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for hook in repository["hooks"]:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert hook["language"] == "system" and f"$(BIN)/{tool}" in makefile


def test_the_map_shows_every_folder_and_no_other() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```\n(server/ .*?)^```", page, re.MULTILINE | re.DOTALL)
    path: list[str] = []
    shown: set[Path] = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path[depth:] = [line.split()[0]]
        shown.add(ROOT / "/".join(path))
    assert [file for file in shown if not file.exists()] == []
    for parent in ("server", "adapters", "adapters/training", "benchmarks"):
        folders = {file.parent for file in (ROOT / parent).glob("*/__init__.py")}
        assert folders <= shown, f"{parent} has folders that the map does not show"


def test_decisions_are_numbered_without_gaps() -> None:
    files = sorted(file for file in (DOCS / "decisions").glob("*.md") if file.name != "index.md")
    index = (DOCS / "decisions/index.md").read_text(encoding="utf-8")
    for number, file in enumerate(files, 1):
        assert file.name.startswith(f"{number:04}-")
        assert file.read_text(encoding="utf-8").startswith(f"# {number}. ")
        assert f"({file.name})" in index


def test_every_table_stands_in_a_page() -> None:
    asked = [name for page in PAGES for name in re.findall(r"<!-- table: (\w+) -->", page.read_text("utf-8"))]
    assert sorted(asked) == sorted(TABLES)


def test_every_setting_has_a_meaning() -> None:
    page = built("configuration.md")
    for name, field in Settings.model_fields.items():
        assert field.description and f"`--{name.replace('_', '-')}`" in page, name


def test_every_command_and_option_has_a_meaning() -> None:
    """mkdocs-click shows them all; what it cannot make up is the text."""
    for path, command in walk_commands(main, "loragate"):
        assert command.help, path
        for option in command.params:
            if isinstance(option, click.Option) and path not in ("loragate serve", "loragate"):
                assert option.help, f"{path} {option.name}"


def test_every_route_is_described_and_its_json_has_a_model() -> None:
    by_vllm = {batch.PATH, *(endpoint.path for endpoint in Endpoint)}  # vLLM's models are not ours to repeat
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path} says nothing of what it does"
            for answer in operation["responses"].values():
                json = answer.get("content", {}).get("application/json")
                if json and path not in by_vllm:
                    assert json["schema"].keys() & {"$ref", "anyOf"}, f"{method} {path} has no response model"


def test_what_the_schema_leaves_out_is_the_console_the_servers_own_routes_and_the_schema_itself() -> None:
    hidden = {route.path for route in application().routes if not route.include_in_schema}  # type: ignore[attr-defined]
    assert {path for path in hidden if not path.startswith("/console")} == {
        "/openapi.json",
        "/internal/history",
        "/internal/replica",
        "/internal/request",
    }
    assert "`/console`" in built("operations.md") and "/openapi.json" in built("api.md")


def test_every_metric_is_documented() -> None:
    page = built("metrics.md")
    assert all(f"`{series.exposed_name}`" in page and series.help for series in SERIES.values())


def test_every_error_code_is_documented() -> None:
    codes = {rule.code for rule in RULES.values()}
    for file in (ROOT / "server").rglob("*.py"):
        codes |= set(re.findall(r'code="([a-z_]+)"', file.read_text(encoding="utf-8")))
    page = built("api.md")
    assert {code for code in codes if f"| `{code}` |" not in page} == set()


def test_texts_name_no_series_and_no_flag_that_does_not_exist() -> None:
    """What was renamed in the code is renamed in the prose."""
    flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    flags |= {opt for _, command in walk_commands(main, "") for p in command.params for opt in p.opts}
    names = {series.exposed_name for series in SERIES.values()}
    for file in ("operations.md", "security.md", "upgrading.md", "architecture.md"):
        text = (DOCS / file).read_text(encoding="utf-8")
        prefixes = "|".join(sorted({name.split("_")[1] for name in names}))
        named = set(re.findall(rf"\bloragate_(?:{prefixes})_?\w*", text.split("## Notes")[0]))
        assert named <= names | {f"{name}_bucket" for name in names}, f"{file}: {named - names}"
        for flag in re.findall(r"`loragate [^`]*?(--[a-z][a-z-]+)", text):
            assert flag in flags, f"{file}: {flag}"

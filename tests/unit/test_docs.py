"""The generated documents are those of the code."""

from __future__ import annotations

from pathlib import Path

from server.documentation import configuration

ROOT = Path(__file__).parents[2]


def test_configuration_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == configuration(), "run `make docs`"


def test_every_document_is_reachable_from_the_readme_or_another() -> None:
    texts = {
        path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    }
    for path in texts:
        if path.name == "README.md" or "decisions" in path.parts:
            continue
        assert any(path.name in text for other, text in texts.items() if other != path), path

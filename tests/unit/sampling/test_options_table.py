"""The table in docs/decoding.md is the one that the code makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampling import options_table as table
from sampling.options import OPTIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "decoding.md"


def test_the_document_has_the_table_of_the_code():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert table.refresh(text) == text, "run: python -m sampling.options_table docs/decoding.md"


def test_one_row_per_option_with_as_many_cells_as_the_head():
    rows = table.markdown().splitlines()
    assert len(rows) == len(OPTIONS) + 2
    cells = {row.replace("\\|", "").count("|") for row in rows}
    assert len(cells) == 1


def test_refresh_replaces_only_what_is_between_the_markers():
    document = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.refresh(document) == f"before\n{table.BEGIN}\n{table.markdown()}{table.END}\nafter\n"


@pytest.mark.parametrize("document", ["", table.BEGIN, table.END])
def test_refresh_needs_both_markers(document):
    with pytest.raises(ValueError, match="options:begin"):
        table.refresh(document)


def test_the_command_rewrites_a_document(tmp_path):
    document = tmp_path / "d.md"
    document.write_text(f"{table.BEGIN}\n{table.END}\n", encoding="utf-8")
    table.main([str(document)])
    assert table.markdown() in document.read_text(encoding="utf-8")


def test_the_documents_presets_and_examples_are_those_of_the_code():
    from sampling.presets import BUILT_IN

    text = DOCUMENT.read_text(encoding="utf-8")
    for name, fields in BUILT_IN.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        for value in fields.values():
            assert f" {value:g} " in row, (name, value)

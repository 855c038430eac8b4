"""Command-line options made from a pydantic model: type, metavar, default and help of each kind of field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict, Field

from server.cli.options import given, model_options


class Model(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    folder: Path
    """A folder."""
    count: Annotated[int, Field(ge=1)] | None = None
    """A number."""
    share: float = 0.0
    """A share."""
    active: bool = False
    """A flag."""
    kind: Literal["a", "b"] = "a"
    """A choice."""
    size: Literal[1, 8] = 8
    """A choice of numbers."""
    table: dict[str, Any] = Field(default_factory=dict)
    """An object."""
    names: tuple[str, ...] = ("x", "y")
    """Some names."""


def run(*args: str) -> tuple[int, str, dict[str, Any]]:
    values: dict[str, Any] = {}
    command = click.Command("c", params=[*model_options(Model.model_fields)], callback=values.update)
    result = CliRunner().invoke(command, args)
    return result.exit_code, result.output, given(values)


def test_only_flags_that_were_given_have_a_value() -> None:
    assert run() == (0, "", {})
    assert run("--active", "--share", "0")[2] == {"active": True, "share": 0.0}


def test_values_have_the_types_of_the_fields() -> None:
    args = ["--folder", "/f", "--count", "3", "--kind", "b", "--size", "1", "--table", '{"a": [1]}']
    assert run(*args, "--names", "p, q,")[2] == {
        "folder": Path("/f"), "count": 3, "kind": "b", "size": 1, "table": {"a": [1]}, "names": ("p", "q"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--count", "many"], "Invalid value for '--count'"),
        (["--kind", "c"], "'c' is not one of 'a', 'b'."),
        (["--size", "2"], "Invalid value for '--size'"),
        (["--table", "{"], "Invalid value for '--table': This is not JSON: "),
        (["--table", "[1]"], "This must be a JSON object, not list."),
    ],
)
def test_an_impossible_value_is_a_usage_error_that_names_the_flag(args: list[str], message: str) -> None:
    code, output, _ = run(*args)
    assert code == 2 and message in output


def test_help_has_metavar_and_default() -> None:
    lines = [" ".join(line.split()) for line in run("--help")[1].splitlines()]
    assert "--folder PATH A folder." in lines
    assert "--count INTEGER A number." in lines
    assert "--share FLOAT A share. [default: 0.0]" in lines
    assert "--active A flag." in lines
    assert "--kind [a|b] A choice. [default: a]" in lines
    assert "--size [1|8] A choice of numbers. [default: 8]" in lines
    assert "--table JSON An object." in lines
    assert "--names NAMES Some names. [default: x,y]" in lines

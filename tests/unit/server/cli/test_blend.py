"""`loragate adapter blend`: how the parts are written, and what is sent and printed."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from server.cli.adapters.admin_client import AdminClient
from server.cli.adapters.blend import parse_part, recipe_text
from server.cli.main import main

RECIPE = {
    "of": [
        {"adapter": "support", "version": 3, "digest": "d", "scale": 1.0},
        {"adapter": "tone", "version": 2, "digest": "e", "scale": 0.5},
    ],
    "reduce_rank": None,
    "rank": 24,
    "relative_error": 0.0,
}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("support@3:1.5", ("support", 3, 1.5)),
        ("support", ("support", None, 1.0)),
        ("a.b-c:-0.5", ("a.b-c", None, -0.5)),
        ("tone@2", ("tone", 2, 1.0)),
    ],
)
def test_a_part_has_a_name_a_version_and_a_scale(text: str, part: tuple[str, int | None, float]) -> None:
    assert tuple(parse_part(text).values()) == part


@pytest.mark.parametrize("text", ["", "@3", "a@0", "a@x", "a:", "a:x", "a@1:2:3", "a@1@2"])
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"for example support@3:0\.5"):
        parse_part(text)


def test_the_command_sends_the_parts_and_prints_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def call(self: AdminClient, method: str, path: str, **request: Any) -> Any:
        if path == "/live":
            return {"state": "ready"}
        sent.append((method, path, request["json"]))
        return {"number": 1, "recipe": RECIPE}

    monkeypatch.setattr(AdminClient, "call", call)
    arguments = ["adapter", "blend", "acme-concierge", "support@3:1.0", "tone@2:0.5", "--key", "k"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert sent[0][:2] == ("POST", "/adapters/acme/concierge/blend")
    assert sent[0][2]["of"][1] == {"adapter": "tone", "version": 2, "scale": 0.5}
    assert "blend of support@3 x 1, tone@2 x 0.5 (rank 24, exact); acme-concierge answers" in result.output
    assert CliRunner().invoke(main, ["adapter", "blend", "acme", "a", "--key", "k"]).exit_code == 2


def test_a_reduction_shows_its_error() -> None:
    assert "(rank 8, relative error 1.23%)" in recipe_text(
        RECIPE | {"reduce_rank": 8, "rank": 8, "relative_error": 0.01234}
    )

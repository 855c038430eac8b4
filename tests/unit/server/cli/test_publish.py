"""Publishing a finished adapter: refusals before the training, and the weights beside a canary."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from server.cli.adapters.admin_client import AdminClient
from server.cli.adapters.publish import Publication, split_off
from server.cli.main import main


@pytest.mark.parametrize(
    ("targets", "percent", "weights"),
    [
        ([(1, 1.0)], 10, {"1": 90.0, "2": 10}),
        ([(1, 3.0), (4, 1.0)], 20, {"1": 60.0, "4": 20.0, "2": 20}),
        ([(1, 90), (4, 10)], 50, {"1": 45.0, "4": 5.0, "2": 50}),
    ],
)
def test_a_canary_takes_from_all_in_proportion(targets: list, percent: float, weights: dict) -> None:
    rows = [{"version": version, "weight": weight} for version, weight in targets]
    found = split_off(rows, 2, percent)
    assert found == pytest.approx(weights)
    assert sum(found.values()) == pytest.approx(100)


@pytest.mark.parametrize("target", ["acme", "/support", "acme/", "", "/"])
def test_a_target_is_a_tenant_and_a_name(target: str) -> None:
    with pytest.raises(click.BadParameter, match="is not TENANT/NAME"):
        Publication.parse(AdminClient("http://127.0.0.1:9", "k"), target, None)


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.0])
def test_a_canary_has_some_and_not_all(percent: float) -> None:
    with pytest.raises(click.BadParameter, match="between 0 and 100"):
        Publication.parse(AdminClient("http://127.0.0.1:9", "k"), "acme/support", percent)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--canary", "5"], "--publish-as and --canary need --publish URL"),
        (["--publish-as", "acme/support"], "need --publish URL"),
        (["--publish", "http://127.0.0.1:9", "--key", "k"], "--publish needs --publish-as"),
        (["--publish", "http://127.0.0.1:9", "--publish-as", "acme/support"], "There is no key"),
        (["--publish", "http://127.0.0.1:9", "--publish-as", "acme/s", "--key", "k"], "cannot be reached"),
        (["--keep", "worst"], "Invalid value for '--keep': 'worst' is not one of 'best', 'last'."),
        (["--judge", "http://127.0.0.1:9/v1"], "judge and judge_model belong together"),
    ],
)
def test_a_training_that_could_not_be_published_or_judged_does_not_start(
    tmp_path: Path, flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORAGATE_KEY", raising=False)
    command = ["train", "--base", "demo", "--data", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*command, *flags])
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert not (tmp_path / "out").exists()

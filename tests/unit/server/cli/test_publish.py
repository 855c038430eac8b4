"""Publishing a finished adapter: refusals before the training, and the weights beside a canary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from server.cli.adapters import publish as module
from server.cli.adapters.admin_client import AdminClient
from server.cli.adapters.publish import Proof, Publication, split_off
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
        (["--if", "loss < 1"], "--evaluate, --evaluate-judge, --if and --promote-after need --publish URL"),
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


class Server:
    """Has version 1 in traffic; the next one is 2. An evaluation has finished at once."""

    def __init__(self, *, serves: bool = True) -> None:
        targets = [{"version": 1, "weight": 1.0}] if serves else []
        self.alias = {"generation": 1, "targets": targets}
        self.changes: list[tuple[str, Any]] = []
        self.evaluated: list[int] = []
        self.taken_after = 99  # looks at the canary until somebody takes its traffic

    def call(self, method: str, path: str, **request: Any) -> Any:
        if path == "/live":
            return {"state": "ready"}
        if path.endswith("/evaluations"):
            number = int(path.split("/")[5])
            self.evaluated.append(number)
            return {
                "id": "e", "tenant": "acme", "adapter": "support", "version": number, "state": "finished",
                "figures": {"loss": 0.5}, "turns": 3, "done": 3,
                "data_digest": "d" * 64, "error": None,
            }  # fmt: skip
        if method == "POST":
            self.changes.append((path.rpartition("/")[2], request["json"]))
            self.alias["generation"] = 2
        else:
            self.taken_after -= 1
            if self.taken_after <= 0:
                self.alias["generation"] = 3
        return {"alias": self.alias, **self.alias}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "add_folder", lambda client, path, folder, options: {"number": 2} | options)
    (tmp_path / "heldout.jsonl").write_text("{}")
    return tmp_path


def publication(server: Server, canary: float | None, **proof: Any) -> Publication:
    client: Any = server
    server.wait_for_engine = lambda: None  # type: ignore[attr-defined]
    return Publication.parse(client, "acme/support", canary, Proof(**proof))


def test_it_is_evaluated_beside_the_current_version_and_promoted_with_the_condition(folder: Path) -> None:
    server = Server()
    told = publication(server, None, chats=folder / "heldout.jsonl", condition="loss < 1").publish(folder)
    assert server.evaluated == [2, 1]
    assert server.changes == [("promote", {"version": 2, "if": "loss < 1", "expected_generation": None})]
    assert told == "published acme-support@2; acme-support answers with it"


def test_the_first_version_is_evaluated_alone(folder: Path) -> None:
    server = Server(serves=False)
    publication(server, 10.0, chats=folder / "heldout.jsonl").publish(folder)
    assert server.evaluated == [2]
    assert [change for change, _ in server.changes] == ["promote"]


def test_a_canary_that_keeps_its_traffic_is_promoted(folder: Path) -> None:
    server = Server()
    proof = {"chats": folder / "heldout.jsonl", "condition": "loss < 1", "minutes": 0}
    publication(server, 10.0, **proof).publish(folder)
    split, promote = server.changes
    assert split == ("split", {"weights": {"1": 90.0, "2": 10.0}, "expected_generation": 1, "if": "loss < 1"})
    assert promote == ("promote", {"version": 2, "if": "loss < 1", "expected_generation": 2})


def test_a_canary_that_has_lost_its_traffic_is_not_promoted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    server = Server()
    server.taken_after = 4
    with pytest.raises(click.ClickException, match="acme-support@2 is not promoted: its traffic was changed"):
        publication(server, 10.0, minutes=60).publish(folder)
    assert [change for change, _ in server.changes] == ["split"]


@pytest.mark.parametrize(
    ("canary", "proof", "told"),
    [
        (None, {"minutes": 5}, "needs --canary"),
        (None, {"condition": "loss < 1"}, "needs --evaluate FILE"),
        (None, {"judge": "large"}, "needs --evaluate FILE"),
    ],
)
def test_what_belongs_together(canary: float | None, proof: Any, told: str) -> None:
    with pytest.raises(click.BadParameter, match=told):
        publication(Server(), canary, **proof)

"""Publishes a finished adapter folder on a running server, as a new version."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from server.cli.adapters.admin_client import AdminClient, Refusal
from server.cli.adapters.evaluate import begin_evaluation, evaluation_row, wait_for_evaluation
from server.cli.adapters.upload import add_folder

_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Proof:
    """What a version has to show before it gets traffic, and before it gets all of it.

    `chats`: it is evaluated on them, beside the version that has the most traffic now. `condition`: what the figures
    must meet. `minutes`: how long it must keep its traffic as a canary. `judge`: the server's judge of the answers.
    """

    chats: Path | None = None
    condition: str | None = None
    minutes: float | None = None
    judge: str | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """The adapter that gets a new version, and the version's traffic: all of it, or `canary` percent."""

    client: AdminClient
    tenant: str
    name: str
    canary: float | None = None
    proof: Proof = Proof()

    @classmethod
    def parse(
        cls, client: AdminClient, target: str, canary: float | None, proof: Proof = Proof()
    ) -> Publication:
        """Read `TENANT/NAME`. Raises: click.BadParameter."""
        tenant, slash, name = target.partition("/")
        if not (tenant and slash and name):
            raise click.BadParameter(f"{target!r} is not TENANT/NAME.", param_hint="--publish-as")
        if canary is not None and not 0 < canary < 100:
            raise click.BadParameter(f"{canary:g} is not between 0 and 100 percent.", param_hint="--canary")
        if proof.minutes is not None and canary is None:
            raise click.BadParameter("it needs --canary.", param_hint="--promote-after")
        for flag, value in (("--if", proof.condition), ("--evaluate-judge", proof.judge)):
            if value is not None and proof.chats is None:
                raise click.BadParameter("it needs --evaluate FILE.", param_hint=flag)
        return cls(client, tenant, name, canary, proof)

    def check(self) -> None:
        """Check, before a long training, that the server is reachable and that the key may manage this adapter.

        Raises:
            click.ClickException: one of the two fails.
        """
        self.client.call("GET", "/adapters")
        if self._adapter() is None and self._is_unknown_tenant():
            raise click.ClickException(
                f"There is no tenant {self.tenant!r} on the server: add it with `loragate tenant add`."
            )

    def publish(self, folder: Path) -> str:
        """Upload `folder` and send it its traffic; returns what was done, as a sentence.

        Raises:
            click.ClickException: the server refuses.
        """
        self.client.wait_for_engine()
        before = self._adapter()
        alias = before["alias"] if before and before["alias"]["targets"] else None
        if self.proof.chats is None and (alias is None or self.canary is None):
            version = self._add(folder, promote=True)
            return f"published {self._named(version)}; {self.tenant}-{self.name} answers with it"
        version = self._add(folder, promote=False)
        self._evaluate(version, alias)
        if alias is None or self.canary is None:
            self._promote(version)
            return f"published {self._named(version)}; {self.tenant}-{self.name} answers with it"
        weights = split_off(alias["targets"], version["number"], self.canary)
        body = {"weights": weights, "expected_generation": alias["generation"], "if": self.proof.condition}
        split = self.client.call("POST", f"{self._path}/split", json=body)
        if self.proof.minutes is not None:
            return self._promote_after(version, split["generation"], self.proof.minutes)
        return (
            f"published {self._named(version)}; it gets {self.canary:g} % of {self.tenant}-{self.name}'s traffic. "
            f"Next: loragate adapter promote {self.tenant} {self.name} {version['number']}, or rollback"
        )

    @property
    def _path(self) -> str:
        return f"/adapters/{self.tenant}/{self.name}"

    def _evaluate(self, version: Mapping[str, Any], alias: Mapping[str, Any] | None) -> None:
        """Evaluate the version and the one that has the most traffic now. Raises: click.ClickException."""
        if self.proof.chats is None:
            return
        current = max(alias["targets"], key=lambda t: (t["weight"], -t["version"])) if alias else None
        numbers = [version["number"], *([current["version"]] if current else [])]
        params = {} if self.proof.judge is None else {"judge": self.proof.judge}
        for number in numbers:
            begun = begin_evaluation(self.client, self._path, number, self.proof.chats, params)
            ended = wait_for_evaluation(self.client, begun)
            if ended["state"] != "finished":
                raise click.ClickException(f"The evaluation of @{number} {ended['state']}: {ended['error']}")
            shown = {name: value for name, value in evaluation_row(ended).items() if value is not None}
            click.echo("  ".join(f"{name} {value}" for name, value in shown.items()), err=True)

    def _promote(self, version: Mapping[str, Any], generation: int | None = None) -> None:
        body = {"version": version["number"], "if": self.proof.condition, "expected_generation": generation}
        self.client.call("POST", f"{self._path}/promote", json=body)

    def _promote_after(self, version: Mapping[str, Any], generation: int, minutes: float) -> str:
        """Promote the canary when it has kept its traffic for so long. Raises: click.ClickException."""
        click.echo(f"{self._named(version)} is a canary for {minutes:g} minutes", err=True)
        until = time.monotonic() + 60 * minutes
        while True:
            left_s = until - time.monotonic()
            if self._adapter()["alias"]["generation"] != generation:
                raise click.ClickException(
                    f"{self._named(version)} is not promoted: its traffic was changed meanwhile; `loragate adapter "
                    "show --json` has the history, in which `canary watch` takes the traffic from a bad canary."
                )
            if left_s <= 0:
                self._promote(version, generation)
                return f"published {self._named(version)}; {self.tenant}-{self.name} answers with it"
            time.sleep(min(_POLL_S, left_s))

    def _add(self, folder: Path, *, promote: bool) -> Any:
        return add_folder(self.client, self._path, folder, {"promote": promote})

    def _named(self, version: Mapping[str, Any]) -> str:
        return f"{self.tenant}-{self.name}@{version['number']}"

    def _adapter(self) -> Any:
        try:
            return self.client.call("GET", self._path)
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise

    def _is_unknown_tenant(self) -> bool:
        """Only an operator can read tenants; the server has already checked the tenant of a tenant admin's key."""
        try:
            self.client.call("GET", f"/tenants/{self.tenant}")
        except Refusal as refusal:
            return refusal.status == 404
        return False


def split_off(targets: list[Mapping[str, Any]], version: int, percent: float) -> dict[str, float]:
    """Weights that give `version` its percentage and divide the rest between the others as before."""
    whole = sum(target["weight"] for target in targets)
    rest = {
        str(target["version"]): round(target["weight"] / whole * (100 - percent), 6) for target in targets
    }
    return {**rest, str(version): percent}

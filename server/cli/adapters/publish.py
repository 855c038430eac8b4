"""Publishes a finished adapter folder on a running server, as a new version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from server.cli.adapters.admin_client import AdminClient, Refusal
from server.cli.adapters.upload import add_folder


@dataclass(frozen=True, slots=True)
class Publication:
    """The adapter that gets a new version, and the version's traffic: all of it, or `canary` percent."""

    client: AdminClient
    tenant: str
    name: str
    canary: float | None = None

    @classmethod
    def parse(cls, client: AdminClient, target: str, canary: float | None) -> Publication:
        """Read `TENANT/NAME`. Raises: click.BadParameter."""
        tenant, slash, name = target.partition("/")
        if not (tenant and slash and name):
            raise click.BadParameter(f"{target!r} is not TENANT/NAME.", param_hint="--publish-as")
        if canary is not None and not 0 < canary < 100:
            raise click.BadParameter(f"{canary:g} is not between 0 and 100 percent.", param_hint="--canary")
        return cls(client, tenant, name, canary)

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
        alias = before["alias"] if before and self.canary is not None else None
        if alias is None or not alias["targets"]:
            version = self._add(folder, promote=True)
            return f"published {self._named(version)}; {self.tenant}-{self.name} answers with it"
        version = self._add(folder, promote=False)
        weights = split_off(alias["targets"], version["number"], float(self.canary or 0))
        body = {"weights": weights, "expected_generation": alias["generation"]}
        self.client.call("POST", f"/adapters/{self.tenant}/{self.name}/split", json=body)
        return (
            f"published {self._named(version)}; it gets {self.canary:g} % of {self.tenant}-{self.name}'s traffic. "
            f"Next: loragate adapter promote {self.tenant} {self.name} {version['number']}, or rollback"
        )

    def _add(self, folder: Path, *, promote: bool) -> Any:
        return add_folder(self.client, f"/adapters/{self.tenant}/{self.name}", folder, {"promote": promote})

    def _named(self, version: Mapping[str, Any]) -> str:
        return f"{self.tenant}-{self.name}@{version['number']}"

    def _adapter(self) -> Any:
        try:
            return self.client.call("GET", f"/adapters/{self.tenant}/{self.name}")
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

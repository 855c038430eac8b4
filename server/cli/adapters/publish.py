"""Bringing a finished adapter folder to a running server, as a new version."""

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
    """Where a new version goes: to all traffic of `tenant`'s adapter `name`, or to `canary` percent of it."""

    client: AdminClient
    tenant: str
    name: str
    canary: float | None = None

    @classmethod
    def parse(cls, client: AdminClient, target: str, canary: float | None) -> Publication:
        """From `TENANT/NAME`. Raises: click.BadParameter."""
        tenant, slash, name = target.partition("/")
        if not (tenant and slash and name):
            raise click.BadParameter(f"{target!r} is not TENANT/NAME", param_hint="--publish-as")
        if canary is not None and not 0 < canary < 100:
            raise click.BadParameter(f"{canary:g} is not between 0 and 100 percent", param_hint="--canary")
        return cls(client, tenant, name, canary)

    def check(self) -> None:
        """Before hours are spent: the server is there, and the key may manage this adapter.

        Raises:
            click.ClickException: not so.
        """
        self.client.call("GET", "/adapters")
        if self._adapter() is None and self._is_unknown_tenant():
            raise click.ClickException(f"there is no tenant {self.tenant!r} on the server")

    def publish(self, folder: Path) -> str:
        """Upload `folder` and give it its traffic; says what was done.

        Raises:
            click.ClickException: the server refuses.
        """
        before = self._adapter()
        shared = before["alias"] if before and self.canary is not None else None
        if shared is None or not shared["targets"]:
            version = self._add(folder, promote=True)
            return f"published {self._named(version)}; {self.tenant}-{self.name} answers with it"
        version = self._add(folder, promote=False)
        weights = split_off(shared["targets"], version["number"], float(self.canary or 0))
        body = {"weights": weights, "expected_generation": shared["generation"]}
        self.client.call("POST", f"/adapters/{self.tenant}/{self.name}/split", json=body)
        return (
            f"published {self._named(version)}; it gets {self.canary:g} % of {self.tenant}-{self.name}'s traffic. "
            f"Then: loragate adapter promote {self.tenant} {self.name} {version['number']}, or rollback"
        )

    def _add(self, folder: Path, *, promote: bool) -> Any:
        return add_folder(self.client, f"/adapters/{self.tenant}/{self.name}", folder, {"promote": promote})

    def _named(self, version: Mapping[str, Any]) -> str:
        return f"{self.tenant}-{self.name}@{version['number']}"

    def _adapter(self) -> Any:
        return _found(self.client, f"/adapters/{self.tenant}/{self.name}")

    def _is_unknown_tenant(self) -> bool:
        """Only an operator may ask; a tenant's admin was let in as its own tenant's."""
        try:
            self.client.call("GET", f"/tenants/{self.tenant}")
        except Refusal as refusal:
            return refusal.status == 404
        return False


def split_off(targets: list[Mapping[str, Any]], version: int, percent: float) -> dict[str, float]:
    """Weights that give `version` its percent and leave the others their shares of the rest."""
    whole = sum(target["weight"] for target in targets)
    rest = {
        str(target["version"]): round(target["weight"] / whole * (100 - percent), 6) for target in targets
    }
    return {**rest, str(version): percent}


def _found(client: AdminClient, path: str) -> Any:
    try:
        return client.call("GET", path)
    except Refusal as refusal:
        if refusal.status == 404:
            return None
        raise

"""Administration in the registry's database, whether a server runs or not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from adapters.billing.prices import PriceList
from adapters.models import IssuedKey, Key, Role, Tenant, Usage
from adapters.registry import Registry
from adapters.tenant_settings import KeyLimits, TenantSettings
from server.api.admin.billing.usage import in_utc, start
from server.api.admin.models import AuditInfo, KeyInfo, NewKey, TenantInfo
from server.cli.storage import operator_at_shell, with_registry
from server.cli.tenants.administration import Row
from server.config.settings import Settings
from server.fairness.shares import check_guarantees
from server.usage.aggregation import UsageSums


class DatabaseAdministration:
    """See `Administration`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def tenants(self) -> list[Row]:
        """All tenants."""
        return [_tenant(found) for found in with_registry(self._settings, lambda r: r.tenants.list())]

    def tenant(self, name: str) -> Row:
        """One tenant."""
        return _tenant(with_registry(self._settings, lambda r: r.tenants.get(name)))

    def add_tenant(self, name: str, settings: Mapping[str, Any]) -> None:
        """Add a tenant with these settings."""
        added = Tenant(name, TenantSettings.parse(settings))
        with_registry(
            self._settings, lambda r: r.tenants.add(added, by=operator_at_shell(), check=check_guarantees)
        )

    def set_tenant(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change settings; None removes a limit."""
        with_registry(
            self._settings,
            lambda r: r.tenants.set(name, changes, by=operator_at_shell(), check=check_guarantees),
        )

    def set_records(self, tenant: str, records: Mapping[str, Any] | None) -> None:
        """Keep records of a tenant (`share` and `patterns`); None: keep none."""
        from server.usage.records.redaction import check_patterns

        checked = TenantSettings.parse({"records": records}).records
        check_patterns(checked.patterns if checked else ())
        self.set_tenant(tenant, {"records": records})

    def remove_tenant(self, name: str) -> None:
        """Remove a tenant and its keys."""
        with_registry(self._settings, lambda r: r.tenants.remove(name, by=operator_at_shell()))

    def keys(self, tenant: str | None) -> list[Row]:
        """The keys of a tenant, or all, without secrets."""
        return [_key(found) for found in with_registry(self._settings, lambda r: r.keys.list(tenant))]

    def add_key(self, fields: Mapping[str, Any]) -> Row:
        """Create a key; the record has its `secret`."""
        values = {**fields, "role": Role(fields["role"]), "expires_at": _moment(fields.get("expires_at"))}
        values["limits"] = KeyLimits.parse(values.get("limits") or {})
        tenant, role = values.pop("tenant"), values.pop("role")
        return _issued(
            with_registry(
                self._settings, lambda r: r.keys.issue(tenant, role, by=operator_at_shell(), **values)
            )
        )

    def set_key(self, key_id: str, changes: Mapping[str, Any]) -> None:
        """Change models, expiry, note or limits of a key."""
        values = dict(changes)
        if "expires_at" in values:
            values["expires_at"] = _moment(values["expires_at"])
        with_registry(self._settings, lambda r: r.keys.set(key_id, values, by=operator_at_shell()))

    def revoke_key(self, key_id: str, in_s: float) -> None:
        """Revoke a key in `in_s` seconds."""
        with_registry(self._settings, lambda r: r.keys.revoke(key_id, by=operator_at_shell(), in_s=in_s))

    def rotate_key(self, key_id: str, overlap_s: float) -> Row:
        """Create a key with the same rights; the old one ends in `overlap_s` seconds."""
        return _issued(
            with_registry(
                self._settings, lambda r: r.keys.rotate(key_id, by=operator_at_shell(), overlap_s=overlap_s)
            )
        )

    def usage(
        self,
        tenant: str | None,
        since: datetime | None,
        until: datetime | None,
        by: str,
        *,
        per_key: bool = False,
    ) -> list[Row]:
        """Usage and its cost per period, per version or per key; without `since`, of this month."""

        async def read(registry: Registry) -> tuple[tuple[Usage, ...], PriceList]:
            entries = registry.usage.of_keys if per_key else registry.usage.list
            found = await entries(since=start(since), until=in_utc(until), tenant=tenant)
            return found, await registry.prices.list()

        entries, prices = with_registry(self._settings, read)
        sums = UsageSums(by, prices, self._settings.currency, per_key=per_key)
        sums.add(entries)
        return list(sums.rows())

    def audit(self, filters: Mapping[str, Any], limit: int) -> list[Row]:
        """The newest entries that match."""
        entries = with_registry(self._settings, lambda r: r.audit.list(**filters, limit=limit))
        return [AuditInfo.model_validate(entry).model_dump(mode="json") for entry in entries]


def _tenant(record: Tenant) -> Row:
    return TenantInfo(**record.as_dict()).model_dump(mode="json")


def _key(record: Key) -> Row:
    return KeyInfo.model_validate(record).model_dump(mode="json")


def _issued(issued: IssuedKey) -> Row:
    return NewKey.of(issued).model_dump(mode="json")


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None

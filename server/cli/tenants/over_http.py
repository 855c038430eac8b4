"""Administration through the admin API of a running server, from any machine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from server.cli.adapters.admin_client import AdminClient
from server.cli.tenants.administration import Row

#: Entries of the log of changes in one answer.
_PAGE = 1000


class ServerAdministration:
    """See `Administration`."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    def tenants(self) -> list[Row]:
        """All tenants."""
        return self._list("/tenants")

    def tenant(self, name: str) -> Row:
        """One tenant."""
        return self._row("GET", f"/tenants/{quote(name, '')}")

    def add_tenant(self, name: str, settings: Mapping[str, Any]) -> None:
        """Add a tenant with these settings."""
        self._row("POST", "/tenants", json={"name": name, "settings": dict(settings)})

    def set_tenant(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change settings; None removes a limit."""
        self._row("PATCH", f"/tenants/{quote(name, '')}", json=dict(changes))

    def set_records(self, tenant: str, records: Mapping[str, Any] | None) -> None:
        """Keep records of a tenant (`share` and `patterns`); None: keep none."""
        path = f"/tenants/{quote(tenant, '')}/records"
        if records is None:
            self._row("DELETE", path)
        else:
            self._row("PUT", path, json=dict(records))

    def remove_tenant(self, name: str) -> None:
        """Remove a tenant and its keys."""
        self._client.call("DELETE", f"/tenants/{quote(name, '')}")

    def keys(self, tenant: str | None) -> list[Row]:
        """The keys of a tenant, or all, without secrets."""
        return self._list("/keys", {"tenant": tenant})

    def add_key(self, fields: Mapping[str, Any]) -> Row:
        """Create a key; the record has its `secret`."""
        return self._row("POST", "/keys", json=dict(fields))

    def set_key(self, key_id: str, changes: Mapping[str, Any]) -> None:
        """Change models, expiry, note or limits of a key."""
        self._row("PATCH", f"/keys/{quote(key_id, '')}", json=dict(changes))

    def revoke_key(self, key_id: str, in_s: float) -> None:
        """Revoke a key in `in_s` seconds."""
        self._row("DELETE", f"/keys/{quote(key_id, '')}", params={"in_s": in_s})

    def rotate_key(self, key_id: str, overlap_s: float) -> Row:
        """Create a key with the same rights; the old one ends in `overlap_s` seconds."""
        return self._row("POST", f"/keys/{quote(key_id, '')}/rotate", json={"overlap_s": overlap_s})

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
        times = {"from": since and since.isoformat(), "to": until and until.isoformat()}
        return self._list("/usage/keys" if per_key else "/usage", {"tenant": tenant, "by": by, **times})

    def audit(self, filters: Mapping[str, Any], limit: int) -> list[Row]:
        """The newest entries that match, page by page."""
        names = {"since": "from", "until": "to"}
        asked = {
            names.get(name, name): value.isoformat() if isinstance(value, datetime) else value
            for name, value in filters.items()
        }
        found: list[Row] = []
        while len(found) < limit:
            before = found[-1]["id"] if found else None
            size = min(_PAGE, limit - len(found))
            page = self._list("/audit", {**asked, "before": before, "limit": size})
            found += page
            if len(page) < size:
                break
        return found

    def _row(self, method: str, path: str, **request: Any) -> Row:
        row: Row = self._client.call(method, path, **request)
        return row

    def _list(self, path: str, params: Mapping[str, Any] | None = None) -> list[Row]:
        asked = {name: value for name, value in (params or {}).items() if value is not None}
        rows: list[Row] = self._client.call("GET", path, params=asked)["data"]
        return rows

"""/admin/v1/tenants/{name}/records: whether a tenant's requests and answers are kept."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends
from pydantic import Field

from adapters.errors import BadValue
from adapters.tenant_settings import RecordSettings, TenantSettings
from server.api.admin.models import TenantInfo
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router, check_tenant
from server.config.settings import Settings
from server.request.context import Caller
from server.usage.records.redaction import check_patterns


class RecordsBody(Wire):
    """Which part of the requests is kept, and what is replaced in them beside personal data and secrets."""

    share: float = 1.0
    patterns: list[str] = Field(default_factory=list)


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = admin_router("/tenants/{name}/records")
    tenants = services.registry.tenants

    @routes.put("")
    async def keep_records(
        name: str, body: RecordsBody, caller: Caller = Depends(guard.manager)
    ) -> TenantInfo:
        """Keep a share of the tenant's requests with their answers, redacted, where `--records` says."""
        check_tenant(caller, name)
        settings = TenantSettings.parse({"records": body.model_dump()})
        await check_records(services.settings, settings.records)
        changed = await tenants.set(name, {"records": body.model_dump()}, by=actor(caller))
        return TenantInfo(**changed.as_dict())

    @routes.delete("")
    async def end_records(name: str, caller: Caller = Depends(guard.manager)) -> TenantInfo:
        """Keep no more records of the tenant; the files that there are stay until they are old."""
        check_tenant(caller, name)
        changed = await tenants.set(name, {"records": None}, by=actor(caller))
        return TenantInfo(**changed.as_dict())

    return routes


async def check_records(settings: Settings, records: RecordSettings | None) -> None:
    """Refuse records that this server cannot keep. Raises: BadValue."""
    if records is None:
        return
    if not settings.records:
        raise BadValue(
            "This server keeps no records: its operator can name a place for them with --records, such as "
            "--records /var/lib/loragate/records or s3://bucket/records."
        )
    await asyncio.to_thread(check_patterns, records.patterns)

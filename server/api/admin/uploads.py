"""/admin/v1/adapters/{tenant}/{name}/uploads: an archive in pieces, for connections that break.

POST begins one, PATCH with `Upload-Offset` adds a piece, GET tells how far it is; then a version is added from
the source `upload:ID`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request

from adapters.sources.uploads import Upload
from server.api.admin.permissions import Permissions, Service, check_tenant
from server.request.context import Caller


def router(service: Service, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/adapters/{tenant}/{name}/uploads")
    uploads = service.uploads

    @routes.post("", status_code=201)
    async def begin(tenant: str, name: str, caller: Caller = Depends(guard.manager)) -> Upload:
        """Begin an archive."""
        check_tenant(caller, tenant)
        await service.registry.tenants.get(tenant)
        return uploads.begin(tenant)

    @routes.get("/{upload_id}")
    async def tell(tenant: str, name: str, upload_id: str, caller: Caller = Depends(guard.manager)) -> Upload:
        """How much of it has come."""
        check_tenant(caller, tenant)
        return uploads.get(tenant, upload_id)

    @routes.patch("/{upload_id}")
    async def append(
        tenant: str,
        name: str,
        upload_id: str,
        request: Request,
        upload_offset: Annotated[int, Header(ge=0)],
        caller: Caller = Depends(guard.manager),
    ) -> Upload:
        """Add a piece; what came of one that breaks off is kept."""
        check_tenant(caller, tenant)
        return await uploads.append(tenant, upload_id, upload_offset, request.stream())

    @routes.delete("/{upload_id}", status_code=204)
    async def remove(tenant: str, name: str, upload_id: str, caller: Caller = Depends(guard.manager)) -> None:
        """Give it up."""
        check_tenant(caller, tenant)
        uploads.remove(tenant, upload_id)

    return routes

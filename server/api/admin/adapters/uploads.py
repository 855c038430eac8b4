"""/admin/v1/adapters/{tenant}/{name}/uploads: an upload in pieces, for unreliable connections.

POST begins an upload, PATCH with `Upload-Offset` appends a piece, GET returns the received bytes; then a version is
added from the source `upload:ID`. With a depot, each of these may reach another server.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request

from adapters.sources.uploads import Upload
from server.api.admin.permissions import AdminServices, Permissions, admin_router, check_tenant
from server.request.context import Caller


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of uploads in pieces: /admin/v1/adapters/{tenant}/{name}/uploads."""
    routes = admin_router("/adapters/{tenant}/{name}/uploads")
    uploads = services.uploads

    @routes.post("", status_code=201)
    async def begin(tenant: str, name: str, caller: Caller = Depends(guard.manager)) -> Upload:
        """Begin an upload."""
        check_tenant(caller, tenant)
        await services.registry.tenants.get(tenant)
        return await uploads.begin(tenant)

    @routes.get("/{upload_id}")
    async def tell(tenant: str, name: str, upload_id: str, caller: Caller = Depends(guard.manager)) -> Upload:
        """The bytes received so far."""
        check_tenant(caller, tenant)
        return await uploads.get(tenant, upload_id)

    @routes.patch("/{upload_id}")
    async def append(
        tenant: str,
        name: str,
        upload_id: str,
        request: Request,
        upload_offset: Annotated[int, Header(ge=0)],
        caller: Caller = Depends(guard.manager),
    ) -> Upload:
        """Append a piece; the received part of an interrupted piece is kept."""
        check_tenant(caller, tenant)
        return await uploads.append(tenant, upload_id, upload_offset, request.stream())

    @routes.delete("/{upload_id}", status_code=204)
    async def remove(tenant: str, name: str, upload_id: str, caller: Caller = Depends(guard.manager)) -> None:
        """Cancel the upload."""
        check_tenant(caller, tenant)
        await uploads.remove(tenant, upload_id)

    return routes

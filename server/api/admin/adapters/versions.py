"""/admin/v1/adapters: adapters and their versions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field, ValidationError
from starlette.responses import Response

from adapters.sources import ArchiveSource, Source
from sampling.defaults import Layer
from server.api.admin.models import (
    AdapterDetails,
    AdapterInfo,
    Listing,
    VersionInfo,
)
from server.api.admin.permissions import (
    AdminServices,
    Permissions,
    Wire,
    actor,
    admin_router,
    check_tenant,
    named_source,
)
from server.api.admin.sliced_listing import json_listing, record_dump
from server.api.admin.views import adapter_details, adapter_info, version_info
from server.api.middleware.body_reader import is_upload, read_json
from server.errors import InvalidRequest
from server.request.context import Caller

#: Prefix of a source that was uploaded in pieces (`server.api.admin.uploads`).
UPLOADED = "upload:"


class VersionBody(Wire):
    """A new version from a source that the server can read."""

    source: Annotated[str, Field(max_length=4096)]
    promote: bool = True
    sampling_defaults: dict[str, Any] = Field(default_factory=dict)


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of adapters and their versions: /admin/v1/adapters."""
    routes = admin_router("/adapters")
    _add_reading(routes, services, guard)
    _add_versions(routes, services, guard)
    _add_removal(routes, services, guard)
    _add_pins(routes, services, guard)
    return routes


def _add_reading(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    adapters, dump = services.registry.adapters, record_dump(AdapterInfo)

    @routes.get("", response_model=Listing[AdapterInfo])
    async def list_adapters(caller: Caller = Depends(guard.manager)) -> Response:
        """All adapters, or the caller's own."""
        views = await adapters.list(caller.tenant_name or None)
        return json_listing((adapter_info(services, view) for view in views), dump)

    @routes.get("/{tenant}/{name}")
    async def show_adapter(tenant: str, name: str, caller: Caller = Depends(guard.manager)) -> AdapterDetails:
        """One adapter with all its versions and the history of its name."""
        check_tenant(caller, tenant)
        history = await services.registry.aliases.history(tenant, name)
        view = await adapters.get(tenant, name)
        owner = await services.registry.tenants.get(tenant)
        evaluations = await services.registry.evaluations.list(tenant, name)
        return adapter_details(services, view, owner, history, evaluations)


def _add_versions(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    lifecycle = services.lifecycle

    @routes.post("/{tenant}/{name}/versions", status_code=201)
    async def add_version(
        tenant: str,
        name: str,
        request: Request,
        promote: bool = True,
        sampling_defaults: str = "{}",
        caller: Caller = Depends(guard.manager),
    ) -> VersionInfo:
        """Add a version: a tar in the body, or JSON that names a source. It serves at once unless promote=false.

        While the engine starts, this waits for at most --adapter-wait-s.
        """
        check_tenant(caller, tenant)
        body = await _version_body(request, promote, sampling_defaults)
        Layer("adapter", body.sampling_defaults)  # raises for a default that no request may have
        async with _source(services, tenant, body, request, caller) as source:
            await services.readiness.wait_ready(services.settings.adapter_wait_s)
            version = await lifecycle.register(
                tenant, name, source, by=actor(caller), sampling_defaults=body.sampling_defaults
            )
        if body.promote:
            await lifecycle.promote(tenant, name, version.number, by=actor(caller))
        return version_info(services, version)


def _add_removal(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    lifecycle = services.lifecycle

    @routes.delete("/{tenant}/{name}/versions/{number}")
    async def remove_version(
        tenant: str, name: str, number: int, caller: Caller = Depends(guard.manager)
    ) -> Listing[VersionInfo]:
        """Take one version out of service; requests in flight finish."""
        check_tenant(caller, tenant)
        removed = await lifecycle.remove(tenant, name, number, by=actor(caller))
        return Listing(data=[version_info(services, version) for version in removed])

    @routes.delete("/{tenant}/{name}")
    async def remove_adapter(
        tenant: str, name: str, caller: Caller = Depends(guard.manager)
    ) -> Listing[VersionInfo]:
        """Take the whole adapter out of service; requests in flight finish."""
        check_tenant(caller, tenant)
        removed = await lifecycle.remove(tenant, name, by=actor(caller))
        return Listing(data=[version_info(services, version) for version in removed])


def _add_pins(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    lifecycle = services.lifecycle

    @routes.put("/{tenant}/{name}/versions/{number}/pin")
    async def pin_version(
        tenant: str, name: str, number: int, caller: Caller = Depends(guard.operator)
    ) -> VersionInfo:
        """Keep a version loaded, also after a restart. Operators only, because it occupies a slot of all tenants."""
        return version_info(services, await lifecycle.loading.pin(tenant, name, number, by=actor(caller)))

    @routes.delete("/{tenant}/{name}/versions/{number}/pin")
    async def unpin_version(
        tenant: str, name: str, number: int, caller: Caller = Depends(guard.operator)
    ) -> VersionInfo:
        """Allow the eviction of a version again."""
        return version_info(services, await lifecycle.loading.unpin(tenant, name, number, by=actor(caller)))


async def _version_body(request: Request, promote: bool, sampling_defaults: str) -> VersionBody:
    """The body; the options of an upload are in the query."""
    if is_upload(request.headers):
        body: dict[str, Any] = {"source": "upload", "sampling_defaults": _object(sampling_defaults)}
    else:
        body = await read_json(request)
    try:
        return VersionBody.model_validate({"promote": promote} | body)
    except ValidationError as error:
        fault = error.errors()[0]
        param = ".".join(str(part) for part in fault["loc"])
        raise InvalidRequest(f"{param}: {fault['msg']}", param=param) from error


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"sampling_defaults is not JSON: {error}.", param="sampling_defaults") from error


@asynccontextmanager
async def _source(
    services: AdminServices, tenant: str, body: VersionBody, request: Request, caller: Caller
) -> AsyncIterator[Source]:
    """The source; an archive that was uploaded in pieces is removed after it was used."""
    if body.source.startswith(UPLOADED):
        async with services.uploads.used(tenant, body.source.removeprefix(UPLOADED)) as archive:
            yield archive
    elif body.source == "upload":
        announced = request.headers.get("content-length", "")
        yield ArchiveSource(request.stream(), int(announced) if announced.isdigit() else None)
    else:
        yield named_source(services, caller, tenant, body.source)

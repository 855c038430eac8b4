"""vLLM's /v1/load_lora_adapter and /v1/unload_lora_adapter, for controllers that use only those.

They use our adapter lifecycle: a loaded adapter is fetched, verified, copied, probed and promoted; an unloaded one
drains. `lora_name` is the public name, `<tenant>-<adapter>`.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from adapters.errors import NameTaken
from adapters.names import check_adapter_name, check_tenant_name
from server.api.admin.permissions import AdminServices, Permissions, actor, check_tenant, named_source
from server.request.context import Caller


class LoadBody(BaseModel):
    """vLLM's body; unknown fields are ignored, as vLLM does."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadBody(BaseModel):
    """vLLM's body."""

    lora_name: str


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """vLLM's two routes for LoRA: /v1/load_lora_adapter and /v1/unload_lora_adapter."""
    routes = APIRouter(prefix="/v1", tags=["lora"])

    @routes.post("/load_lora_adapter", response_class=PlainTextResponse)
    async def load(body: LoadBody, caller: Caller = Depends(guard.manager)) -> PlainTextResponse:
        """Add an adapter, or with `load_inplace` its next version, and serve it."""
        tenant, name = _split(body.lora_name)
        check_tenant(caller, tenant)
        alias = await services.registry.aliases.get(tenant, name)
        if alias.targets and not body.load_inplace:
            raise NameTaken(
                f"The adapter {body.lora_name!r} is already served; send load_inplace=true to serve its next version."
            )
        source = named_source(services, caller, tenant, body.lora_path)
        await services.readiness.wait_ready(services.settings.adapter_wait_s)
        version = await services.lifecycle.register(tenant, name, source, by=actor(caller))
        await services.lifecycle.promote(tenant, name, version.number, by=actor(caller))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @routes.post("/unload_lora_adapter", response_class=PlainTextResponse)
    async def unload(body: UnloadBody, caller: Caller = Depends(guard.manager)) -> PlainTextResponse:
        """Take an adapter out of service; requests in flight finish."""
        tenant, name = _split(body.lora_name)
        check_tenant(caller, tenant)
        await services.lifecycle.remove(tenant, name, by=actor(caller))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return routes


def _split(public_name: str) -> tuple[str, str]:
    """Split at the first "-", which ends the tenant's name. Raises: BadName."""
    tenant, _, adapter = public_name.partition("-")
    return check_tenant_name(tenant), check_adapter_name(adapter)

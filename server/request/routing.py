"""Routing: (caller, model name) → the base model, or one version of an adapter.

A name of another tenant gets the same error as a name that does not exist: both take the same path.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.errors import UnknownAdapter
from adapters.models import AdapterView, AliasTarget, Version
from adapters.names import split_model_name
from adapters.registry import Registry
from adapters.registry.cache import RegistryCache
from sampling.defaults import Layer
from server.errors import InvalidRequest, ModelNotFound
from server.request.context import Caller, Target


@dataclass(frozen=True, slots=True)
class _Route:
    """An adapter with the defaults of its versions, which are validated once and not per request."""

    view: AdapterView
    defaults: Mapping[int, Layer]


class Router:
    """Resolves model names; a known one costs no query."""

    def __init__(self, registry: Registry, *, base_model_name: str) -> None:
        self._registry = registry
        self.base_model_name = base_model_name
        self._views: RegistryCache[tuple[str, str], _Route] = RegistryCache(
            registry.audit.revision, self._look_up, registry.changes
        )

    async def resolve(self, caller: Caller, model: object, *, sticky: str = "") -> Target:
        """What `model` means to the caller.

        Args:
            caller: who calls; only its tenant's names are known.
            model: the `model` field as it was sent.
            sticky: requests of the same adapter and `sticky` get the same version of a split alias.

        Raises:
            InvalidRequest: `model` is not a name.
            ModelNotFound: the model does not exist, is another tenant's, or the key may not call it.
        """
        if not isinstance(model, str) or not model:
            raise InvalidRequest(
                "model must be the name of a model; GET /v1/models lists yours.", param="model"
            )
        name, number = split_model_name(model)
        if caller.key.models is not None and name not in caller.key.models:
            raise not_found(model)
        if model == self.base_model_name:
            return Target(model, None)
        try:
            route = await self._views.get((caller.tenant_name or name.partition("-")[0], name))
        except UnknownAdapter as error:
            raise not_found(model) from error
        version = _version(route.view, number) if number else _weighted(route.view, sticky)
        if version is None:
            raise not_found(model)
        is_split = len(route.view.alias.targets) > 1
        return Target(model, version, route.defaults[version.number], is_split)

    async def visible(self, caller: Caller) -> list[tuple[str, float | None]]:
        """(public name, time of creation) of every adapter that the caller may call."""
        views = await self._registry.adapters.list(caller.tenant_name or None)
        allowed = caller.key.models
        return [
            (view.adapter.public_name, view.adapter.created_at.timestamp())
            for view in views
            if view.alias.targets and (allowed is None or view.adapter.public_name in allowed)
        ]

    async def _look_up(self, key: tuple[str, str]) -> _Route:
        view = await self._registry.adapters.resolve(*key)
        return _Route(view, {v.number: Layer("adapter", v.sampling_defaults) for v in view.versions})

    def sees_base(self, caller: Caller) -> bool:
        """Whether the caller may call the base model itself."""
        return caller.key.models is None or self.base_model_name in caller.key.models


def sticky_part(body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """The id whose requests a split alias sends to one version: the session's, else the end user's, else ""."""
    metadata = body.get("metadata")
    candidates = (
        headers.get("x-session-id"),
        body.get("user"),
        body.get("safety_identifier"),  # OpenAI's name of `user` since 2025
        metadata.get("user_id") if isinstance(metadata, Mapping) else None,  # /v1/messages
    )
    return next((name for name in candidates if isinstance(name, str) and name), "")


def not_found(model: str) -> ModelNotFound:
    """The same sentence for every reason, so that it does not reveal which one it was."""
    return ModelNotFound(f"The model {model[:256]!r} does not exist or you do not have access to it.")


def _version(view: AdapterView, number: int) -> Version | None:
    return next((version for version in view.versions if version.number == number), None)


def _weighted(view: AdapterView, sticky: str) -> Version | None:
    """One of the alias's targets by weight; always the same one for the same non-empty `sticky`."""
    targets = view.alias.targets
    if not targets:
        return None
    if len(targets) == 1:
        return _version(view, targets[0].number)
    if not sticky:
        return _version(view, _at(targets, random.random()))
    key = f"{view.adapter.public_name}\0{sticky}".encode("utf-8", "replace")
    return _version(view, _at(targets, int.from_bytes(hashlib.sha256(key).digest()[:7]) / 2**56))


def _at(targets: Sequence[AliasTarget], point: float) -> int:
    """The target that covers `point` (0 ≤ point < 1) of the summed weights."""
    left = point * sum(target.weight for target in targets)
    for target in targets:
        left -= target.weight
        if left < 0:
            return target.number
    return targets[-1].number

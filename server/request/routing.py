"""Routing: (caller, model name) → the base model, one version of an adapter, or a blend of several.

A name of another tenant gets the same error as a name that does not exist: both take the same path.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.errors import BadValue, UnknownAdapter
from adapters.lifecycle.blends.blending import ScaledVersion, check_parts, check_scale
from adapters.models import AdapterView, AliasTarget, Version, VersionState
from adapters.names import split_model_name
from adapters.registry import Registry
from adapters.registry.cache import RegistryCache
from adapters.registry.figures.shadows import shadow_of
from sampling.defaults import Layer
from server.errors import InvalidRequest, ModelNotFound
from server.request.context import Caller, ShadowTarget, Target

#: The field of a request that names several adapters.
ADAPTERS = "adapters"
#: The number in the stand-in for a blend's version.
BLEND_NUMBER = 0
_MAX_ADAPTER_NAME = 64
#: Names that a refusal of a request without `model` lists.
_SHOWN_MODELS = 20


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
            registry.availability, self._look_up, self._changes
        )
        self._listed: RegistryCache[str | None, tuple[AdapterView, ...]] = RegistryCache(
            registry.availability, registry.adapters.list, self._changes
        )

    async def resolve(self, caller: Caller, model: object, *, sticky: str = "") -> Target:
        """What `model` means to the caller.

        Args:
            caller: who calls; only its tenant's names are known.
            model: the `model` field as it was sent; None where there is none, for the caller's only model.
            sticky: requests of the same adapter and `sticky` get the same version of a split alias.

        Raises:
            InvalidRequest: `model` is not a name, or None and the caller may call several.
            ModelNotFound: the model does not exist, is another tenant's, or the key may not call it.
            RegistryUnavailable: the database does not answer, and the model is not cached or the grace is over.
        """
        if model is None:
            model = await self._only_model(caller)
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
        shadow = None if number else _shadow(route.view, version)
        return Target(model, version, route.defaults[version.number], is_split, shadow=shadow)

    async def resolve_blend(
        self, caller: Caller, model: object, adapters: object, *, sticky: str = ""
    ) -> Target:
        """What the request's `adapters` mean to the caller: the blend of the versions that their names stand for.

        `model` may be left out; otherwise it is the base model or one of the adapters. The options of the first
        adapter hold. One adapter with the scale 1 is no blend.
        Raises: InvalidRequest: `adapters` cannot be read, or they cannot be blended; as `resolve`, for each name.
        """
        parts = read_parts(adapters)
        names = [name for name, _ in parts]
        if model is not None and model not in (self.base_model_name, *names):
            raise InvalidRequest(
                "With `adapters`, model must be one of their names or the base model, or be left out.",
                param="model",
            )
        targets = [await self.resolve(caller, name, sticky=sticky) for name in names]
        versions = [target.version for target in targets if target.version is not None]
        if len(versions) < len(targets) or len({version.tenant for version in versions}) > 1:
            raise InvalidRequest(
                "adapters may name adapters of one tenant only, and not the base model.", param=ADAPTERS
            )
        asked = model if isinstance(model, str) else names[0]
        if len(parts) == 1 and parts[0][1] == 1:
            return replace(targets[0], model=asked)
        blend = tuple(ScaledVersion(v, scale) for v, (_, scale) in zip(versions, parts, strict=True))
        stand_in = replace(
            versions[0],
            adapter="+".join(version.adapter for version in versions)[:_MAX_ADAPTER_NAME],
            number=BLEND_NUMBER,
            engine_id=0,
            state=VersionState.READY,
            digest=None,
            source="blend",
        )
        is_split = any(target.is_split for target in targets)
        return Target(asked, stand_in, targets[0].defaults, is_split, blend)

    async def visible(self, caller: Caller) -> list[tuple[str, float | None]]:
        """(public name, time of creation) of every adapter that the caller may call."""
        views = await self._listed.get(caller.tenant_name or None)
        allowed = caller.key.models
        return [
            (view.adapter.public_name, view.adapter.created_at.timestamp())
            for view in views
            if view.alias.targets and (allowed is None or view.adapter.public_name in allowed)
        ]

    async def _only_model(self, caller: Caller) -> str:
        """The one model that the caller may call. Raises: InvalidRequest, ModelNotFound."""
        base = [self.base_model_name] if self.sees_base(caller) else []
        names = base + [name for name, _ in await self.visible(caller)]
        if len(names) == 1:
            return names[0]
        if not names:
            raise ModelNotFound("The request names no model, and this key may call none; ask an operator.")
        shown = ", ".join(names[:_SHOWN_MODELS])
        more = (
            f" and {len(names) - _SHOWN_MODELS} more (GET /v1/models)" if len(names) > _SHOWN_MODELS else ""
        )
        raise InvalidRequest(
            f"The request names no model, and this key may call {len(names)}: send as `model` one of "
            f"{shown}{more}.",
            param="model",
        )

    def _changes(self) -> int:
        return self._registry.changes("tenant", "adapter", "version", "alias")

    async def _look_up(self, key: tuple[str, str]) -> _Route:
        view = await self._registry.adapters.resolve(*key)
        return _Route(view, {v.number: Layer("adapter", v.sampling_defaults) for v in view.versions})

    def sees_base(self, caller: Caller) -> bool:
        """Whether the caller may call the base model itself."""
        return caller.key.models is None or self.base_model_name in caller.key.models


def read_parts(value: object) -> tuple[tuple[str, float], ...]:
    """Names and scales of a request's `adapters`. Raises: InvalidRequest."""
    try:
        items = value if isinstance(value, list) else [value]
        check_parts(range(len(items)))
        parts = [_read_part(item) for item in items]
        check_parts([name for name, _ in parts])
        return tuple((name, check_scale(scale)) for name, scale in parts)
    except BadValue as error:
        raise InvalidRequest(f"adapters: {error}", param=ADAPTERS) from error


def _read_part(item: object) -> tuple[str, float]:
    if isinstance(item, dict) and not item.keys() - {"name", "scale"}:
        name, scale = item.get("name"), item.get("scale", 1.0)
        if isinstance(name, str) and type(scale) in (int, float):
            return name, float(max(-1e9, min(scale, 1e9)))  # a larger whole number is no float
    raise InvalidRequest(
        'adapters must be a list like [{"name": "acme-support", "scale": 1.0}].', param=ADAPTERS
    )


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


def _shadow(view: AdapterView, serving: Version) -> ShadowTarget | None:
    """The version that gets copies of the adapter's requests, unless it is the one that answers."""
    shadow = shadow_of(view.adapter.shadow)
    version = _version(view, shadow.version) if shadow else None
    if shadow is None or version is None or version.number == serving.number:
        return None
    return ShadowTarget(version, shadow.share, shadow.caller)


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

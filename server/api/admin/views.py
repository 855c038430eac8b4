"""Adapters, versions and aliases as /admin/v1 shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from adapters.models import AdapterView, Alias, AliasChange, Tenant, Version
from adapters.registry.figures.evaluations import Evaluation
from sampling.defaults import Layer
from sampling.limits import Limits
from server.api.admin.adapters.evaluation_info import EvaluationInfo
from server.api.admin.models import (
    AdapterDetails,
    AdapterInfo,
    AliasInfo,
    ChangedAlias,
    EffectiveOption,
    TargetInfo,
    VersionDetails,
    VersionInfo,
)
from server.api.admin.permissions import AdminServices
from server.engine.base_model import adapter_warnings


def adapter_info(services: AdminServices, view: AdapterView) -> AdapterInfo:
    """An adapter with its versions."""
    versions = [version_info(services, version) for version in view.versions]
    return AdapterInfo(**_names(view), versions=versions)


def adapter_details(
    services: AdminServices,
    view: AdapterView,
    owner: Tenant,
    history: Sequence[AliasChange],
    evaluations: Sequence[Evaluation],
) -> AdapterDetails:
    """An adapter with its versions in detail and the changes of its alias."""
    versions = [
        VersionDetails(**_row(services, version), decoding=_decoding(services, version, owner))
        for version in view.versions
    ]
    return AdapterDetails(
        **_names(view),
        versions=versions,
        history=history,
        evaluations=[EvaluationInfo.model_validate(each) for each in evaluations],
        compared_with_engine_at=services.lifecycle.drifts.reconciled_at,
    )


def version_info(services: AdminServices, version: Version) -> VersionInfo:
    """One version. A path of this machine is shortened to its last part."""
    return VersionInfo(**_row(services, version))


def alias_info(alias: Alias) -> AliasInfo:
    """What an adapter's public name stands for."""
    targets = [TargetInfo(version=target.number, weight=target.weight) for target in alias.targets]
    return AliasInfo(generation=alias.generation, targets=targets)


def changed_alias(alias: Alias) -> ChangedAlias:
    """The same after a change, with the servers that have proven it."""
    return ChangedAlias(**dict(alias_info(alias)), proven_on=list(alias.proven_on))


def _names(view: AdapterView) -> dict[str, Any]:
    return {
        "tenant": view.adapter.tenant,
        "name": view.adapter.name,
        "model": view.adapter.public_name,
        "alias": alias_info(view.alias),
        "condition": view.adapter.condition,
    }


def _row(services: AdminServices, version: Version) -> dict[str, Any]:
    condition = services.lifecycle.condition(version)
    row = {
        field.name: getattr(record, field.name) for record in (version, condition) for field in fields(record)
    }
    row["state"] = services.lifecycle.state_of(version)
    row["warnings"] = adapter_warnings(version.training, version.brought, services.base)
    row["source"] = version.source.rpartition("/")[2] if version.source.startswith("/") else version.source
    return row


def _decoding(services: AdminServices, version: Version, owner: Tenant) -> dict[str, EffectiveOption]:
    """The options that hold for a chat request to this version that names none."""
    shown = services.sampling.describe(
        Layer("adapter", version.sampling_defaults),
        Layer("tenant", owner.settings.sampling_defaults),
        Limits(**owner.settings.limits),
    )
    return {name: EffectiveOption.model_validate(option) for name, option in shown.items()}

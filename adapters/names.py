"""The rules for names of tenants and adapters, the composition of public model names, and a base model's short name.

A tenant's name has no "-", so the first "-" of a public model name `<tenant>-<adapter>` always ends the tenant, and
two pairs never share a public name. "@" separates a version: `acme-support@3`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType

from adapters.errors import BadName

#: Names that the server writes where a tenant's name stands, and where it writes them. A tenant added by an earlier
#: release may have one of them; only `check_new_tenant_name` refuses them.
RESERVED_TENANT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "other": "the metrics, for tenants without their own series",
        "operators": "the console, for requests with an operator's key",
        "operator": "the audit log, for changes with an operator's key",
        "system": "the audit log, for the server's own changes",
    }
)

_TENANT = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")
_ADAPTER = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_PINNED = re.compile(r"(?P<name>[^@]+)@(?P<number>[1-9][0-9]{0,8})")


def check_tenant_name(name: str) -> str:
    """Return `name`. Raises: BadName."""
    if not _TENANT.fullmatch(name):
        raise BadName(
            f"Tenant name {name[:64]!r} must have 1 to 32 characters of a-z, 0-9 and _, "
            "and start with a letter or digit."
        )
    return name


def check_new_tenant_name(name: str) -> str:
    """Return `name`, which no tenant has yet. Raises: BadName, also for a name that the server itself uses."""
    check_tenant_name(name)
    if place := RESERVED_TENANT_NAMES.get(name):
        raise BadName(f"Tenant name {name!r} is used by {place}. Choose another one.")
    return name


def check_adapter_name(name: str) -> str:
    """Return `name`. Raises: BadName."""
    if not _ADAPTER.fullmatch(name) or ".." in name:
        raise BadName(
            f"Adapter name {name[:80]!r} must have 1 to 64 characters of a-z, 0-9, '.', '_' and '-', "
            "and start and end with a letter or digit."
        )
    return name


def public_name(tenant: str, adapter: str) -> str:
    """The model name callers use, e.g. `acme-support`."""
    return f"{tenant}-{adapter}"


def split_model_name(model: str) -> tuple[str, int | None]:
    """Split `acme-support@3` into `("acme-support", 3)`; without a version: `(model, None)`."""
    match = _PINNED.fullmatch(model)
    return (match["name"], int(match["number"])) if match else (model, None)


def base_model_name(name_or_path: str) -> str:
    """The last part of a base model's name on the hub or of its path, also of one in the hub's cache."""
    parts = PurePath(name_or_path).parts or (name_or_path,)
    cached = next((part for part in parts if part.startswith("models--")), None)
    return cached.rpartition("--")[2] if cached else parts[-1]

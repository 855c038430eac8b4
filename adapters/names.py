"""The rules for names of tenants and adapters, and the composition of public model names.

A tenant's name has no "-", so the first "-" of a public model name `<tenant>-<adapter>` always ends the tenant, and
two pairs never share a public name. "@" separates a version: `acme-support@3`.
"""

from __future__ import annotations

import re

from adapters.errors import BadName

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

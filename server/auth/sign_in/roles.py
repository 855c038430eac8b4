"""From the verified claims of a person to a role: only the operator's rules decide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.models import Role
from server.config.sign_in import SignInRule
from server.errors import SignInRefused

_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class Grant:
    """What a person may do."""

    role: Role
    tenant: str | None
    read_only: bool


def grant_of(claims: Mapping[str, Any], rules: Sequence[SignInRule]) -> Grant:
    """The grant of the first rule that the claims match. Raises: SignInRefused: no rule does."""
    for rule in rules:
        if rule.value in _values(claims, rule.claim):
            tenant = _tenant(claims, rule)
            role = Role.TENANT_ADMIN if tenant else Role.OPERATOR
            return Grant(role, tenant, rule.role == "read_only")
    looked_at = ", ".join(sorted({rule.claim for rule in rules}))
    raise SignInRefused(
        f"You are known to the provider, but nothing there gives you a role here (looked at: {looked_at}). "
        "Ask an operator, who sets --sign-in-roles."
    )


def person_name(claims: Mapping[str, Any], claim: str) -> str:
    """The name of a person in the log of changes: the claim's value, otherwise the subject."""
    given = _values(claims, claim)
    name = given[0] if given else str(claims["sub"])
    return "".join(char for char in name if char.isprintable())[:_MAX_NAME] or "unnamed"


def account_of(claims: Mapping[str, Any]) -> str:
    """What a person's usage is counted under: the same for all of the person's sessions, and without the name."""
    person = json.dumps([claims["iss"], claims["sub"]]).encode()
    return f"u_{hashlib.sha256(person).hexdigest()[:16]}"


def _tenant(claims: Mapping[str, Any], rule: SignInRule) -> str | None:
    """Raises: SignInRefused: the claim that names the tenant is missing, or names several."""
    if not rule.tenant_claim:
        return rule.tenant or None
    named = _values(claims, rule.tenant_claim)
    if len(named) != 1 or not named[0]:
        raise SignInRefused(
            f"The provider names {len(named) or 'no'} tenant{'s' if len(named) > 1 else ''} for you in the claim "
            f"{rule.tenant_claim}; exactly one is needed. Ask an operator."
        )
    return named[0]


def _values(claims: Mapping[str, Any], name: str) -> list[str]:
    """A claim as texts. An address that the provider has not verified may be somebody else's: it does not count."""
    if name == "email" and claims.get("email_verified") is not True:
        return []
    value = claims.get(name)
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [item if isinstance(item, str) else json.dumps(item) for item in items]

"""The settings of sign-in through OpenID Connect: who gets which role, and what belongs together."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_settings import NoDecode

from server.config.json_settings import parse_list

if TYPE_CHECKING:
    from server.config.settings import Settings

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_FORM = (
    "Write a JSON list of rules, for example "
    '\'[{"claim": "groups", "value": "llm-operators", "role": "operator"}]\'.'
)
_NEEDED = ("public_url", "sign_in_client_id", "sign_in_client_secret", "sign_in_roles")


class SignInRule(BaseModel):
    """A role for the people whose claim has this value, or a list with this value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claim: str
    value: str
    role: Literal["operator", "tenant_admin", "read_only"]
    tenant: str = ""
    """The tenant of the role; empty for operators, and for those who may read what operators may."""
    tenant_claim: str = ""
    """Instead of `tenant`: the claim whose value is the tenant's name."""

    @model_validator(mode="after")
    def _check(self) -> SignInRule:
        if not (self.claim and self.value):
            raise ValueError("A rule needs a claim and its value.")
        if self.tenant and self.tenant_claim:
            raise ValueError("A rule has `tenant` or `tenant_claim`, not both.")
        if self.role == "operator" and (self.tenant or self.tenant_claim):
            raise ValueError(
                "An operator belongs to no tenant: remove `tenant`, or use the role tenant_admin."
            )
        if self.role == "tenant_admin" and not (self.tenant or self.tenant_claim):
            raise ValueError("A tenant_admin needs a tenant: add `tenant`, or `tenant_claim`.")
        return self


#: NOTE: without `NoDecode`, pydantic-settings decodes variables itself; its error names neither variable nor value.
SignInRules = Annotated[list[SignInRule], NoDecode, BeforeValidator(partial(parse_list, form=_FORM))]


def check_sign_in(settings: Settings) -> None:
    """Sign-in is configured completely, or not at all. Raises: ValueError, with one sentence."""
    given = [name for name in ("sign_in_issuer", *_NEEDED[1:]) if getattr(settings, name)]
    if not given:
        return
    missing = [name for name in ("sign_in_issuer", *_NEEDED) if not getattr(settings, name)]
    if missing:
        raise ValueError(
            f"Sign-in needs {_flags(missing)} beside {_flags(given)}: give all of them, or none to use keys only."
        )
    if "openid" not in settings.sign_in_scopes.split():
        raise ValueError(
            f"--sign-in-scopes {settings.sign_in_scopes!r} lacks openid, without which the provider names nobody."
        )
    for name in ("public_url", "sign_in_issuer"):
        check_secure(f"--{name.replace('_', '-')}", getattr(settings, name))


def check_secure(name: str, url: str) -> str:
    """The URL, which must be https, or http on this machine. Raises: ValueError."""
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError(
            f"{name} {url!r} is no URL of a server: write it as https://host or https://host/path."
        )
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return url
    raise ValueError(
        f"{name} {url!r} is not https, so others could read along: use https (http on loopback only)."
    )


def digest_of(settings: Settings) -> str:
    """Identifies what decides about roles; a session of before a change of it is over. "" without sign-in."""
    if not settings.sign_in_issuer:
        return ""
    rules = [rule.model_dump() for rule in settings.sign_in_roles]
    decides = [settings.sign_in_issuer, settings.sign_in_client_id, settings.sign_in_name_claim, rules]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _flags(names: list[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)

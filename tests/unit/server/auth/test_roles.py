"""Which role the verified claims of a person give, and what the log calls the person."""

from __future__ import annotations

import pytest

from adapters.models import Role
from server.auth.sign_in.roles import Grant, account_of, grant_of, person_name
from server.config.sign_in import SignInRule
from server.errors import SignInRefused

RULES = [
    SignInRule(claim="groups", value="admins", role="operator"),
    SignInRule(claim="email", value="ann@acme.example", role="tenant_admin", tenant="acme"),
    SignInRule(claim="member", value="true", role="read_only", tenant_claim="org"),
    SignInRule(claim="level", value="3", role="read_only"),
]
VERIFIED = {"email": "ann@acme.example", "email_verified": True}


@pytest.mark.parametrize(
    ("claims", "grant"),
    [
        ({"groups": ["x", "admins"]}, Grant(Role.OPERATOR, None, False)),
        ({"groups": "admins"}, Grant(Role.OPERATOR, None, False)),
        ({"groups": ["admins"], **VERIFIED}, Grant(Role.OPERATOR, None, False)),  # the first rule holds
        (VERIFIED, Grant(Role.TENANT_ADMIN, "acme", False)),
        ({"member": True, "org": "globex"}, Grant(Role.TENANT_ADMIN, "globex", True)),
        ({"member": True, "org": ["globex"]}, Grant(Role.TENANT_ADMIN, "globex", True)),
        ({"level": 3}, Grant(Role.OPERATOR, None, True)),
    ],
)
def test_the_first_rule_that_matches_holds(claims: dict, grant: Grant) -> None:
    assert grant_of(claims, RULES) == grant


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"groups": ["administrators"]},
        {"groups": "x admins"},
        {"groups": {"admins": 1}},
        {"groups": None},
        {"role": "operator", "tenant": "acme"},
        {"email": "ann@acme.example"},
        {"email": "ann@acme.example", "email_verified": "true"},
        {"member": True},
        {"member": True, "org": ""},
        {"member": True, "org": ["acme", "globex"]},
    ],
)
def test_nothing_else_gives_a_role(claims: dict) -> None:
    with pytest.raises(SignInRefused, match=r"Ask an operator"):
        grant_of(claims, RULES)


def test_a_name_is_verified_printable_and_short() -> None:
    assert person_name(VERIFIED | {"sub": "7"}, "email") == "ann@acme.example"
    assert person_name({"email": "ann@acme.example", "sub": "7"}, "email") == "7"
    assert person_name({"preferred_username": "ann\n\x1b[0m", "sub": "7"}, "preferred_username") == "ann[0m"
    assert len(person_name({"sub": "x" * 500}, "email")) == 100
    assert person_name({"sub": "\n"}, "email") == "unnamed"


def test_an_account_is_the_same_for_a_person_and_no_other() -> None:
    claims = [{"iss": iss, "sub": sub} for iss in ("https://a", "https://b") for sub in ("1", "2")]
    accounts = {account_of(each) for each in claims}
    assert len(accounts) == 4 and account_of(claims[0] | VERIFIED) == account_of(claims[0])
    assert all(len(account) <= 32 for account in accounts)

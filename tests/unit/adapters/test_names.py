"""Names of tenants: those that the server itself uses are not given to new tenants."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import server.api.console
from adapters.errors import BadName
from adapters.models import SYSTEM
from adapters.names import RESERVED_TENANT_NAMES, check_new_tenant_name, check_tenant_name
from server.api.admin import permissions
from server.observability.request_collector import OTHER


def test_reserved_names_are_those_that_stand_where_a_tenant_stands() -> None:
    views = Path(server.api.console.__file__).parent.rglob("*.js")
    text = "".join(file.read_text(encoding="utf-8") for file in views)
    shown = set(re.findall(r"(?:tenant|name) \|\| \"([a-z0-9_]+)\"", text))
    actors = re.findall(r'caller\.tenant_name or "(\w+)"', Path(permissions.__file__).read_text())
    assert {OTHER, SYSTEM.name, *shown, *actors} == set(RESERVED_TENANT_NAMES)


@pytest.mark.parametrize("name", RESERVED_TENANT_NAMES)
def test_a_reserved_name_is_refused_for_new_tenants_only(name: str) -> None:
    with pytest.raises(BadName, match=rf"^Tenant name '{name}' is used by the .*\. Choose another one\.$"):
        check_new_tenant_name(name)
    assert check_tenant_name(name) == name


@pytest.mark.parametrize("name", ["others", "acme", "system1", "the_operator"])
def test_other_names_are_free(name: str) -> None:
    assert check_new_tenant_name(name) == name


def test_the_rule_for_all_names_comes_first() -> None:
    with pytest.raises(BadName, match="1 to 32 characters"):
        check_new_tenant_name("Other")

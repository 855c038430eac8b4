from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.models import Tenant
from adapters.tenant_settings import TenantSettings
from server.fairness.shares import (
    OPERATOR_SETTINGS,
    Capacity,
    GuaranteesTooLarge,
    InvalidStamp,
    Share,
    background_name,
    check_guarantees,
    is_background,
    read_stamp,
    stamp,
    tenant_of,
)

SHARES = st.floats(0.0, 1.0)


def test_a_share_has_the_values_of_the_settings() -> None:
    assert Share.of(TenantSettings(weight=2.0, kv_guarantee=0.1, kv_limit=0.5)) == Share(2.0, 0.1, 0.5)
    assert Share.of(OPERATOR_SETTINGS) == Share()


@settings(deadline=None)
@given(st.text(), st.floats(0.01, 100), st.tuples(SHARES, st.floats(0.001, 1.0)).map(sorted))
def test_a_stamp_survives_the_way_to_the_engine(tenant: str, weight: float, shares: list[float]) -> None:
    policy = TenantSettings(weight=weight, kv_guarantee=shares[0], kv_limit=shares[1])
    assert read_stamp(json.loads(json.dumps(stamp(tenant, policy)))) == (tenant, Share.of(policy))


def test_a_background_stamp_has_a_name_of_its_own_and_no_guarantee() -> None:
    policy = TenantSettings(weight=2.0, kv_guarantee=0.5, kv_limit=0.6)
    name, share = read_stamp(json.loads(json.dumps(stamp("acme", policy, background=True))))
    assert (name, share) == (background_name("acme"), Share(2.0, 0.0, 0.6, background=True))
    assert is_background(name) and not is_background("acme")
    assert tenant_of(name) == tenant_of("acme") == "acme"


def test_no_stamp_is_the_operators_and_a_bad_one_is_refused() -> None:
    assert read_stamp(None) == ("", Share())
    for bad in ({}, {"tenant": "acme"}, {"tenant": "acme", "policy": {"weight": 1}}, "acme", {"policy": 3}):
        with pytest.raises(InvalidStamp, match=r"^The request's stamp lacks the tenant or its policy\.$"):
            read_stamp(bad)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(SHARES, min_size=1, max_size=8), st.integers(1, 10_000), st.integers(1, 300))
def test_guarantees_that_fit_as_shares_fit_as_blocks(weights: list[float], blocks: int, slots: int) -> None:
    total = max(sum(weights), 1.0)
    shares = [Share(guarantee=weight / total) for weight in weights]
    capacity = Capacity(kv_blocks=blocks, block_size_tokens=16, max_num_seqs=slots)
    assert sum(capacity.guaranteed_blocks(share) for share in shares) <= blocks
    for share in shares:
        assert capacity.guaranteed_blocks(share) <= capacity.limit_blocks(share) <= blocks
        assert capacity.guaranteed_slots(share) <= capacity.limit_slots(share) <= slots


def test_shares_become_blocks_and_slots() -> None:
    capacity = Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=8)
    share = Share(guarantee=0.29, limit=0.58)
    assert (capacity.guaranteed_blocks(share), capacity.limit_blocks(share)) == (29, 58)
    assert (capacity.guaranteed_slots(share), capacity.limit_slots(share)) == (2, 4)
    tiny = Share(guarantee=0.01, limit=0.01)
    assert (capacity.guaranteed_slots(tiny), capacity.limit_slots(tiny)) == (1, 1)
    assert capacity.guaranteed_slots(Share()) == 0
    assert (capacity.blocks_for(0), capacity.blocks_for(16), capacity.blocks_for(17)) == (0, 1, 2)


def test_guarantees_above_the_whole_are_refused_with_the_sum() -> None:
    def tenants(*guarantees: tuple[str, float]) -> list[Tenant]:
        return [Tenant(name, TenantSettings(kv_guarantee=share)) for name, share in guarantees]

    fitting = tenants(("acme", 0.5), ("beta", 0.4), ("free", 0.0))
    check_guarantees(fitting)
    with pytest.raises(
        GuaranteesTooLarge,
        match=r"1\.2, above 1: 0\.5 \(c\) \+ 0\.4 \(beta\) \+ 0\.3 \(acme\)\. Lower some of them by 0\.2 in all\.",
    ):
        check_guarantees(tenants(("acme", 0.3), ("beta", 0.4), ("c", 0.5), ("free", 0.0)))
    check_guarantees(tenants(*((f"t{i}", 0.1) for i in range(10))))

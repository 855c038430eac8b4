from __future__ import annotations

import logging

import pytest

from adapters.errors import BadValue
from adapters.tenant_settings import BudgetPeriod, TenantSettings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": 0}, "weight is 0; set it to a number from 0.001 to 1000."),
        ({"weight": float("inf")}, "weight is inf"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": True}, "weight is True"),
        ({"weight": "2"}, "weight is '2'"),
        ({"weight": None}, "weight is None"),
        ({"kv_guarantee": 1.5}, "kv_guarantee is 1.5; set it to a share from 0 to 1."),
        ({"kv_limit": 0.0}, "kv_limit is 0.0; set it to a share above 0 and up to 1."),
        ({"kv_guarantee": 0.5, "kv_limit": 0.4}, "kv_guarantee 0.5 is above kv_limit 0.4; raise kv_limit"),
        ({"rpm": 0}, "rpm is 0; set it to a whole number from 1 to 2147483647, or null for no limit."),
        ({"tpm": -1}, "tpm is -1"),
        ({"tpm": 1.5}, "tpm is 1.5"),
        ({"max_concurrency": 0}, "max_concurrency is 0"),
        ({"token_budget": 2**31}, "token_budget is 2147483648"),
        ({"budget_period": "week"}, "budget_period is 'week'; set it to day or month."),
        ({"limits": [1]}, r"limits is \[1\]; set it to an object of names and values."),
        ({"kv_limt": 0.5}, "A tenant has no setting 'kv_limt'; use one of weight, kv_guarantee, kv_limit"),
    ],
)
def test_settings_out_of_range_are_refused_with_value_range_and_next_step(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(BadValue, match=message):
        TenantSettings.parse(values)
    with pytest.raises(BadValue, match=message):
        TenantSettings().changed(values)


def test_the_bounds_themselves_are_allowed() -> None:
    TenantSettings.parse({"weight": 0.001, "kv_guarantee": 1, "kv_limit": 1, "rpm": 1, "tpm": 2**31 - 1})
    TenantSettings.parse({"weight": 1000, "budget_period": "day"})


def test_a_change_keeps_the_rest_and_null_lifts_a_limit() -> None:
    before = TenantSettings(rpm=5, kv_limit=0.5, budget_period=BudgetPeriod.DAY)
    assert before.changed({"rpm": None}) == TenantSettings(kv_limit=0.5, budget_period=BudgetPeriod.DAY)
    with pytest.raises(BadValue, match=r"kv_guarantee 0\.6 is above kv_limit 0\.5"):
        before.changed({"kv_guarantee": 0.6})


def test_a_bad_row_is_logged_and_never_lifts_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    row = TenantSettings(token_budget=7, sampling_defaults={"top_k": 3}).model_dump()
    bad = {"weight": 0.0, "kv_guarantee": 0.9, "kv_limit": 0.5, "rpm": -3, "budget_period": "week"}
    with caplog.at_level(logging.WARNING, "loragate.registry"):
        read = TenantSettings.read("acme", {**row, **bad, "name": "acme"})
    assert read == TenantSettings(kv_limit=0.5, rpm=1, token_budget=7, sampling_defaults={"top_k": 3})
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "weight is 0.0; set it to a number from 0.001 to 1000.",
        "rpm is -3; set it to a whole number from 1 to 2147483647, or null for no limit.",
        "budget_period is 'week'; set it to day or month.",
        "kv_guarantee 0.9 is above kv_limit 0.5; raise kv_limit or lower kv_guarantee.",
    ]

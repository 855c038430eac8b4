"""For test_kill_9.py: a key's budget in money, under 64 clients, on the bill, in a webhook, and after `kill -9`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
from server_process import ServerProcess
from webhook_receiver import WebhookReceiver

OPERATOR = {"authorization": "Bearer demo-admin"}
#: Per million tokens.
PROMPT, GENERATED = Decimal(1000), Decimal(2500)
BUDGET = Decimal(2)
CLIENTS = 64
FLAGS = ("--webhook-networks", "127.0.0.0/8", "--currency", "EUR", "--budget-alerts", "50,90")
#: Of this test's own: its chats are no other tenant's records or usage.
TENANT = "payer"


def admin(server: ServerProcess, method: str, path: str, **body: Any) -> Any:
    answer = httpx.request(
        method, f"{server.url}/admin/v1/{path}", headers=OPERATOR, json=body or None, timeout=60
    )
    assert answer.is_success, answer.text
    return answer.json()


def ask(server: ServerProcess, secret: str, number: int) -> httpx.Response:
    body = {
        "model": "loragate-demo",
        "messages": [{"role": "user", "content": f"Hello, number {number}!"}],
        "max_tokens": 3 + number % 13,
    }
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=120)


def ask_until_refused(server: ServerProcess, secret: str, client: int) -> list[dict[str, int]]:
    """One client: what its answers used, until three requests in a row found the budget used up."""
    used, refused, number = [], 0, client
    while refused < 3:
        answer = ask(server, secret, number)
        number += CLIENTS
        if answer.status_code == 200:
            used.append(answer.json()["usage"])
            refused = 0
        else:
            assert answer.status_code == 429 and answer.json()["error"]["code"] == "insufficient_quota"
            assert "money_budget of this key 2 per month" in answer.json()["error"]["message"]
            refused += 1
    return used


def cost_of(used: list[dict[str, int]]) -> Decimal:
    """A recount from the answers."""
    prompt, generated = (sum(row[name] for row in used) for name in ("prompt_tokens", "completion_tokens"))
    return (prompt * PROMPT + generated * GENERATED) / 10**6


@dataclass
class Spent:
    """A key whose budget is used up."""

    key: dict[str, Any]
    used: list[dict[str, int]]
    """Of each answer."""


def spend(server: ServerProcess, receiver: WebhookReceiver) -> Spent:
    """Use a budget up; the first messages about it are refused, so that the server dies with them unsent."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0).isoformat()
    price = {"prompt": str(PROMPT), "generated": str(GENERATED), "valid_from": hour, "backdate": True}
    admin(server, "POST", "prices", **price)
    admin(server, "POST", "tenants", name=TENANT)
    key = admin(server, "POST", "keys", tenant=TENANT, limits={"money_budget": str(BUDGET)})
    hook = admin(server, "POST", "webhooks", url=receiver.url, events=["budget.threshold_reached"])
    receiver.secret = hook["secret"]
    receiver.statuses = [503] * 2
    with ThreadPoolExecutor(CLIENTS) as clients:
        calls = [
            clients.submit(ask_until_refused, server, key["secret"], client) for client in range(CLIENTS)
        ]
        used = [usage for call in calls for usage in call.result()]
    assert Decimal("0.9") * BUDGET < cost_of(used) <= BUDGET

    time.sleep(1.5)  # a flush
    rows = admin(server, "GET", "usage/keys?by=month")["data"]
    (row,) = [row for row in rows if row["key"] == key["id"]]
    assert (Decimal(row["cost"]), row["requests"]) == (cost_of(used), len(used))
    assert row["currency"] == "EUR"
    (state,) = [row for row in admin(server, "GET", "budgets")["data"] if row["key"] == key["id"]]
    assert Decimal(state["used"]) == cost_of(used) and state["percent"] >= 90
    receiver.wait_for(2)  # both thresholds were told, and refused
    return Spent(key, used)


def check_spent(again: ServerProcess, receiver: WebhookReceiver, spent: Spent) -> None:
    """After the restart: nothing of the budget is back, and both messages come."""
    more = [usage for client in range(3) for usage in ask_until_refused(again, spent.key["secret"], client)]
    assert cost_of(spent.used + more) <= BUDGET, "a restart has given the budget back"
    receiver.wait_for(4, timeout_s=90)
    assert len(set(receiver.ids)) == 2, "each message keeps its id"
    told = {body["data"]["percent"]: body["data"] for body in receiver.bodies}
    assert sorted(told) == [50, 90]
    assert {row["key"] for row in told.values()} == {spent.key["id"]}

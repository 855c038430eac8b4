"""What webhooks are told that is no change of the registry: budgets that are used up, and trouble of the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from adapters.billing.money import picos_text
from adapters.billing.webhooks import WebhookEvent
from adapters.registry import Registry
from adapters.registry.billing.webhooks import BudgetAlert
from adapters.registry.database import utc_now
from server.engine.supervisor import State
from server.usage.budgets import BudgetState, budget_states

BUDGET_INTERVAL_S = 15.0
ENGINE_INTERVAL_S = 0.5


class BudgetAlerts:
    """Compares budgets with thresholds.

    Args:
        registry: usage, budgets and webhooks.
        percents: the thresholds.
        currency: of budgets in money.
    """

    def __init__(self, registry: Registry, percents: Sequence[int], currency: str) -> None:
        self._registry = registry
        self._percents = percents
        self._currency = currency
        self._told: set[BudgetAlert] = set()

    async def check(self) -> None:
        """Tell which thresholds were reached; each once in a budget's period, whichever server sees it first.

        Raises: RegistryUnavailable.
        """
        webhooks = self._registry.webhooks
        if not any(WebhookEvent.BUDGET in webhook.events for webhook in await webhooks.list()):
            return
        reached = set()
        for state in await budget_states(self._registry, utc_now()):
            for percent in self._percents:
                if state.percent >= percent:
                    alert = BudgetAlert(
                        state.owner, state.budget, state.begins, str(state.allowed), percent, state.tenant
                    )
                    if alert not in self._told:
                        await webhooks.alert(alert, _budget_data(state, percent, self._currency))
                    reached.add(alert)
        self._told = reached


class WatchedEngine(Protocol):
    """What is known of the engine (`server.engine.supervisor.Supervisor`)."""

    state: State
    restarts: int
    stalls: int


class EngineAlerts:
    """Notices that the engine died or stalled, and that it serves again; what cannot be written is told later."""

    def __init__(self, registry: Registry, engine: WatchedEngine) -> None:
        self._registry = registry
        self._engine = engine
        self._seen = (engine.restarts, engine.stalls)
        self._is_down = False
        self._untold: deque[tuple[WebhookEvent, dict[str, Any]]] = deque(maxlen=100)

    async def look(self) -> None:
        """Compare the engine with the last time. Raises: RegistryUnavailable: it is told with the next call."""
        restarts, stalls = self._engine.restarts, self._engine.stalls
        server = self._registry.membership.own
        about = {"server": server.id, "url": server.url, "at": utc_now().isoformat(), "restarts": restarts}
        if restarts > self._seen[0]:
            reason = "stalled" if stalls > self._seen[1] else "died"
            self._untold.append((WebhookEvent.ENGINE_FAILED, about | {"reason": reason}))
            self._is_down = True
        self._seen = (restarts, stalls)
        if self._is_down and self._engine.state is State.READY:
            self._untold.append((WebhookEvent.ENGINE_RESTORED, about))
            self._is_down = False
        while self._untold:
            await self._registry.webhooks.emit(*self._untold[0])
            self._untold.popleft()


def _budget_data(state: BudgetState, percent: int, currency: str) -> dict[str, Any]:
    is_money = state.budget == "money_budget"
    shown = picos_text if is_money else str
    return {
        "tenant": state.tenant,
        "key": state.key,
        "budget": state.budget,
        "percent": percent,
        "used": shown(state.used),
        "allowed": shown(state.allowed),
        "currency": currency if is_money else None,
        "period": state.period.value,
        "begins": state.begins.isoformat(),
        "ends": state.ends.isoformat(),
    }

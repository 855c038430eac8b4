"""Probes, metrics and routes agree on when the server is alive and when it accepts requests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import RegistryUnavailable
from adapters.registry.outages.availability import Availability
from server.engine.supervisor import State
from server.errors import Draining, EngineStalled, EngineUnavailable
from server.observability.readiness import Readiness


def make(
    state: State, *, errored: bool | None = False, away: bool = False, stalled: bool = False
) -> Readiness:
    async def read_revision() -> int:
        if away:
            raise RegistryUnavailable
        return 1

    engine = None if errored is None else SimpleNamespace(errored=errored)
    supervisor: Any = SimpleNamespace(
        state=state, engine=engine, restarts=0, stalls=int(stalled), stalled=stalled, silent_s=0.0
    )
    registry: Any = SimpleNamespace(availability=Availability(read_revision))
    return Readiness(supervisor, registry)


@pytest.mark.parametrize(
    ("state", "errored", "alive", "accepts"),
    [
        (State.STARTING, None, False, False),
        (State.READY, False, True, True),
        (State.READY, True, False, False),
        (State.RESTARTING, None, False, False),
        (State.DRAINING, False, True, False),
        (State.STOPPED, None, False, False),
    ],
)
def test_alive_and_accepting(state: State, errored: bool | None, alive: bool, accepts: bool) -> None:
    readiness = make(state, errored=errored)
    assert (readiness.engine_alive, readiness.accepts_requests) == (alive, accepts)


def test_a_leaving_server_still_serves_but_wants_no_new_requests() -> None:
    readiness = make(State.READY)
    readiness.leaving = True
    readiness.require_ready()
    assert not readiness.accepts_requests and readiness.engine_alive


@pytest.mark.parametrize("state", [State.STARTING, State.RESTARTING])
def test_without_an_engine_a_request_is_refused(state: State) -> None:
    with pytest.raises(EngineUnavailable, match=state.value):
        make(state).require_ready()


def test_a_stalled_engine_is_named_until_the_next_one_serves() -> None:
    readiness = make(State.RESTARTING, stalled=True)
    assert not readiness.engine_alive and readiness.engine_stalls == 1
    with pytest.raises(EngineStalled):
        readiness.require_ready()
    assert make(State.READY).stall is None


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPED])
def test_a_draining_server_refuses_requests(state: State) -> None:
    with pytest.raises(Draining) as refused:
        make(state).require_ready()
    assert refused.value.retry_after_s == 1


async def test_a_registry_that_is_away_is_reported() -> None:
    there, away = make(State.READY), make(State.READY, away=True)
    assert await there.registry_serves() and there.registry_warning is None
    assert not await away.registry_serves()
    assert "has not answered" in str(away.registry_warning)

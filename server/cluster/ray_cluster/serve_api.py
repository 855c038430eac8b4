"""Ray Serve's REST API at a cluster's dashboard (ray 2.60: GET and PUT /api/serve/applications/)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from server.cluster.names import APPLICATION, DEPLOYMENT
from server.errors import LoragateError

_PATH = "/api/serve/applications/"
_POLL_S = 1.0
#: Serve's controller starts with the first request.
_TIMEOUT_S = 120.0
#: So many questions in a row may fail: the head may be restarted meanwhile.
_MAX_FAILURES = 30


class DeployFailed(LoragateError):
    """The cluster cannot be reached, refuses what it is told, or its servers do not start."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a cluster is.

    Attributes:
        status: of the application, as Serve names it.
        message: what Serve says about it.
        states: state of a replica, as Serve names it → how many.
        wanted: how many replicas there should be.
    """

    status: str
    message: str
    states: dict[str, int]
    wanted: int

    @property
    def is_done(self) -> bool:
        """Whether all run that should, and no other."""
        return self.status == "RUNNING" and self.states == {"RUNNING": self.wanted}

    @property
    def has_failed(self) -> bool:
        """Whether waiting is in vain."""
        return self.status == "DEPLOY_FAILED"

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state.lower()}" for state, count in sorted(self.states.items()))
        return f"{self.status.lower()}: {counts or 'no server'}; {self.wanted} wanted"


class ServeApi:
    """Asks and tells.

    Args:
        url: of the dashboard, such as http://head:8265.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(base_url=self._url, timeout=_TIMEOUT_S)

    def __enter__(self) -> ServeApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def running(self) -> dict[str, Any]:
        """What runs, as Serve tells it. Raises: DeployFailed."""
        return dict(self._asked("GET").json())

    def apply(self, document: dict[str, Any]) -> None:
        """Let Serve run this. Raises: DeployFailed."""
        self._asked("PUT", document)

    def wait(self, timeout_s: float, tell: Callable[[Progress], None]) -> None:
        """Return when all servers run.

        Args:
            timeout_s: how long this may take.
            tell: called whenever something has changed.

        Raises:
            DeployFailed: the servers do not start, or not in time.
        """
        deadline, failures, last = time.monotonic() + timeout_s, 0, None
        while True:
            try:
                progress = progress_of(self.running())
                failures = 0
            except DeployFailed:
                failures += 1
                if failures > _MAX_FAILURES:
                    raise
                progress = last or Progress("UNKNOWN", "", {}, 0)
            if progress != last:
                tell(progress)
            last = progress
            if progress.is_done:
                return
            if progress.has_failed or time.monotonic() > deadline:
                late = "" if progress.has_failed else f" after {timeout_s:g} s"
                why = progress.message or "See the log of its servers."
                raise DeployFailed(f"The cluster is not complete{late} ({progress}). {why}")
            time.sleep(_POLL_S)

    def _asked(self, method: str, document: dict[str, Any] | None = None) -> httpx.Response:
        try:
            answer = self._http.request(method, _PATH, json=document)
        except httpx.HTTPError as error:
            raise DeployFailed(
                f"The dashboard {self._url} of a Ray cluster cannot be reached ({error}); name it with --address, or "
                "start a cluster (`ray start --head`)."
            ) from error
        if answer.is_error:
            raise DeployFailed(
                f"The Ray cluster at {self._url} answers {answer.status_code}: {answer.text[:2000]}"
            )
        return answer


def progress_of(running: dict[str, Any]) -> Progress:
    """Of what Serve answers to GET /api/serve/applications/."""
    found = running.get("applications", {}).get(APPLICATION)
    if found is None:
        return Progress("NOT_STARTED", "", {}, 0)
    servers = found.get("deployments", {}).get(DEPLOYMENT, {})
    states: dict[str, int] = {}
    for replica in servers.get("replicas", ()):
        states[replica["state"]] = states.get(replica["state"], 0) + 1
    message = servers.get("message") or found.get("message", "")
    return Progress(found["status"], message, states, servers.get("target_num_replicas", 0))

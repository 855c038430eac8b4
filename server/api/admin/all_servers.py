"""What every server keeps in its own memory, joined for /admin/v1: the history and the requests by their id."""

from __future__ import annotations

from datetime import UTC, datetime

from server.api.admin.permissions import AdminServices
from server.api.live_models import HistoryInfo, HistoryPoint, RequestInfo
from server.cluster.peers import HISTORY, REQUEST, PeerAnswers
from server.errors import UnknownRequest
from server.observability.history import SPANS, Span, merged
from server.usage.request_log import MAX_PER_TENANT

_KEPT = f"each server keeps the last {MAX_PER_TENANT:,} requests of each tenant since its own start."


async def history_of(
    services: AdminServices, span: Span, tenant: str | None, adapter: str | None
) -> HistoryInfo:
    """The history of this server and of the others that answer in time. Args: as `History.steps`."""
    asked = {"span": span, "tenant": tenant, "adapter": adapter}
    others = await services.peers.ask(HISTORY, asked)
    begins_s, steps = services.history.steps(span, tenant, adapter)
    told = [answer for _, answer in others.answers]
    merged(span, begins_s, steps, told)
    adapters = {*services.history.adapters(tenant), *((t, a) for each in told for t, a in each["adapters"])}
    return HistoryInfo(
        begins=datetime.fromtimestamp(begins_s, UTC),
        step_s=SPANS[span].step_s,
        points=[HistoryPoint(**step.point()) for step in steps],
        adapters=sorted(adapters),
        servers=1 + len(told),
        missing=list(others.missing),
    )


async def find_request(services: AdminServices, request_id: str, tenant: str | None) -> RequestInfo:
    """A request of this server, or of another one; a caller's id may have been used twice: the newest.

    Raises: UnknownRequest: no server that answers in time has it.
    """
    found: list[RequestInfo] = []
    own = services.request_log.find(request_id, tenant)
    if own is not None:
        info = {"at": own.at, "options": own.options, "request": own.fields}
        found.append(RequestInfo(**info, server=services.peers.own_id))
    others = await services.peers.ask(REQUEST, {"wanted": request_id, "tenant": tenant})
    found += [RequestInfo(**answer, server=server) for server, answer in others.answers if answer is not None]
    if not found:
        raise UnknownRequest(request_id, _KEPT + _not_asked(others))
    return max(found, key=lambda info: info.at)


def _not_asked(others: PeerAnswers) -> str:
    if not others.missing:
        return ""
    return f" Did not answer: {', '.join(others.missing)}; try again, or ask these servers."

"""OpenTelemetry spans of a request: one for the whole, below it admission, hold, queue, prefill, decode.

vLLM's own span (`llm_request`) hangs below ours: what is handed to its handlers as `traceparent` is our span, which
hangs below the caller's. The stages are written when the request has ended, from times that are taken anyway, so a
token costs nothing. Without `--otlp-traces-endpoint` nothing is made and nothing imported.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders

from server.request.context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_SERVICE = "loragate"
_HEADERS = ("traceparent", "tracestate")


class Tracing:
    """Makes traces, and sends them to a collector in the background.

    Args:
        endpoint: of an OTLP collector; "" makes none.
        protocol: "grpc" or "http/protobuf", as OTEL_EXPORTER_OTLP_TRACES_PROTOCOL has it and vLLM reads it.
    """

    def __init__(self, endpoint: str = "", protocol: str = "grpc") -> None:
        self._provider = _provider(endpoint, protocol) if endpoint else None
        self._tracer = self._provider.get_tracer(_SERVICE) if self._provider else None

    def begin(self, headers: Headers, path: str) -> Trace:
        """The trace of one request, below the caller's span if it names one."""
        return Trace(self._tracer, headers, path)

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()


class Trace:
    """One request's spans; whoever began it must `end` it."""

    def __init__(self, tracer: Tracer | None, headers: Headers, path: str) -> None:
        self._tracer = tracer
        self._began_at = time.monotonic()
        self._headers = headers
        self._span: Span | None = None
        if tracer is not None:
            from opentelemetry.trace import SpanKind
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            above = TraceContextTextMapPropagator().extract(dict(headers))
            self._span = tracer.start_span(
                f"POST {path}", context=above, kind=SpanKind.SERVER, attributes={"http.route": path}
            )

    @property
    def id(self) -> str | None:
        """The trace's id as logs show it; None without tracing."""
        return None if self._span is None else f"{self._span.get_span_context().trace_id:032x}"

    @property
    def headers(self) -> Headers:
        """The caller's headers, with our span as the parent of what follows."""
        if self._span is None:
            return self._headers
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        below: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(below, set_span_in_context(self._span))
        kept = MutableHeaders({k: v for k, v in self._headers.items() if k not in _HEADERS})
        kept.update(below)
        return kept

    def end(self, record: Mapping[str, Any], context: RequestContext | None) -> None:
        """Write the stages and close the whole; `record` is the access record."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        ended_at = time.monotonic()
        for name, begin, end in _stages(self._began_at, ended_at, context):
            self._stage(name, begin, end)
        self._span.set_attributes(_attributes(record))
        if record.get("status", 200) >= 500 or "code" in record:
            self._span.set_status(StatusCode.ERROR, str(record.get("code", "")))
        self._span.end(_wall_ns(ended_at))

    def _stage(self, name: str, begin: float, end: float) -> None:
        from opentelemetry.trace import set_span_in_context

        assert self._tracer is not None and self._span is not None
        context = set_span_in_context(self._span)
        span = self._tracer.start_span(name, context=context, start_time=_wall_ns(begin))
        span.end(_wall_ns(max(begin, end)))


def _stages(
    began_at: float, ended_at: float, context: RequestContext | None
) -> list[tuple[str, float, float]]:
    """(name, begin, end) in monotonic seconds, as far as the request came."""
    if context is None:
        return [("admission", began_at, ended_at)]
    usage = context.usage
    stages = [
        ("admission", began_at, context.started_at),
        ("hold", context.started_at, usage.held_at or ended_at),
    ]
    if usage.scheduled_at is not None and usage.queue_s is not None and usage.first_token_at is not None:
        stages += [
            ("queue", usage.scheduled_at - usage.queue_s, usage.scheduled_at),
            ("prefill", usage.scheduled_at, usage.first_token_at),
            ("decode", usage.first_token_at, usage.last_token_at or ended_at),
        ]
    return stages


#: The access record's fields -> attributes; none holds what was said.
_ATTRIBUTES = {
    "request_id": "loragate.request_id",
    "tenant": "loragate.tenant",
    "key_id": "loragate.key_id",
    "adapter": "loragate.adapter",
    "version": "loragate.version",
    "code": "error.type",
    "status": "http.response.status_code",
    "model": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[field] for field, name in _ATTRIBUTES.items() if record.get(field) not in (None, "")}


def _wall_ns(monotonic_s: float) -> int:
    """The wall-clock time of a moment on the monotonic clock."""
    return time.time_ns() - int((time.monotonic() - monotonic_s) * 1e9)


def _provider(endpoint: str, protocol: str) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    exporter: SpanExporter
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        exporter = Grpc(endpoint=endpoint, insecure=not endpoint.startswith("https"))
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

        exporter = Http(endpoint=endpoint)
    resource = Resource.create({"service.name": _SERVICE, "service.version": version("loragate")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider

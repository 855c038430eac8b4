"""OpenTelemetry spans of a request: one for the request, with admission, hold, queue, prefill and decode below it.

The parent of vLLM's own span (`llm_request`) is ours, because its handlers get our span as `traceparent`; the parent
of ours is the caller's. The stages are written when the request has ended, from times that are measured anyway, so
tracing costs nothing per token. Without `--otlp-traces-endpoint` OpenTelemetry is not even imported.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from server.request.access_log import AccessRecord
from server.request.context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_SERVICE = "loragate"
_HEADERS = ("traceparent", "tracestate")


class Tracing:
    """Creates traces, and sends them to a collector in the background.

    Args:
        endpoint: of an OTLP collector; "" disables tracing.
        protocol: "grpc" or "http/protobuf", as OTEL_EXPORTER_OTLP_TRACES_PROTOCOL has it and vLLM reads it.
    """

    def __init__(self, endpoint: str = "", protocol: str = "grpc") -> None:
        self._provider = _provider(endpoint, protocol) if endpoint else None
        self._tracer = self._provider.get_tracer(_SERVICE) if self._provider else None

    def begin(self, headers: Headers, path: str) -> RequestTrace:
        """Begin the trace of one request; its parent is the caller's span, if there is one."""
        return RequestTrace(self._tracer, headers, path)

    def close(self) -> None:
        """Send the remaining spans."""
        if self._provider is not None:
            self._provider.shutdown()


class RequestTrace:
    """One request's spans; the code that began it must `end` it."""

    def __init__(self, tracer: Tracer | None, headers: Headers, path: str) -> None:
        self._tracer = tracer
        self._began_at = time.monotonic()
        self._headers = headers
        self._span: Span | None = None
        if tracer is not None:
            from opentelemetry.trace import SpanKind
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            parent = TraceContextTextMapPropagator().extract(dict(headers))
            self._span = tracer.start_span(
                f"POST {path}", context=parent, kind=SpanKind.SERVER, attributes={"http.route": path}
            )

    @property
    def id(self) -> str | None:
        """The trace's id as in the logs; None without tracing."""
        return None if self._span is None else f"{self._span.get_span_context().trace_id:032x}"

    @property
    def headers(self) -> Headers:
        """The caller's headers, with our span as the parent."""
        if self._span is None:
            return self._headers
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        injected: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(injected, set_span_in_context(self._span))
        kept = MutableHeaders({k: v for k, v in self._headers.items() if k not in _HEADERS})
        kept.update(injected)
        return kept

    def end(self, record: AccessRecord, context: RequestContext | None) -> None:
        """Write the spans of the stages, and end the request's span."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode, set_span_in_context

        assert self._tracer is not None
        ended_at, parent = time.monotonic(), set_span_in_context(self._span)
        for name, begin, end in _stages(self._began_at, ended_at, context):
            stage = self._tracer.start_span(name, context=parent, start_time=_wall_ns(begin))
            stage.end(_wall_ns(max(begin, end)))
        values = {name: getattr(record, field) for field, name in _ATTRIBUTES.items()}
        self._span.set_attributes({name: value for name, value in values.items() if value not in (None, "")})
        if (record.status or 200) >= 500 or record.code is not None:
            self._span.set_status(StatusCode.ERROR, record.code or "")
        self._span.end(_wall_ns(ended_at))


def _stages(
    began_at: float, ended_at: float, context: RequestContext | None
) -> list[tuple[str, float, float]]:
    """(name, begin, end) in monotonic seconds, of the stages that the request reached."""
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


#: The access record's fields -> attributes; none holds a prompt or an answer.
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


def _wall_ns(monotonic_s: float) -> int:
    """A monotonic time as wall-clock nanoseconds."""
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

"""A collector of OpenTelemetry spans: OTLP over gRPC, as a real one speaks it, and a list."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


@dataclass
class Collector(TraceServiceServicer):
    """`spans(trace_id)` waits for what is sent in the background."""

    url: str = ""
    _spans: list[Span] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[Collector]:
        collector = cls()
        server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(collector, server)
        collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield collector
        finally:
            server.stop(None)

    def Export(self, request: Any, context: Any) -> Any:
        with self._lock:
            for resource in request.resource_spans:
                about = {item.key: item.value.string_value for item in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [_span(about.get("service.name", ""), span) for span in scope.spans]
            del self._spans[:-5000]
        return ExportTraceServiceResponse()

    def spans(self, trace_id: str, names: set[str], timeout_s: float = 10) -> list[Span]:
        """The trace's spans, once all these names are there."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                found = [span for span in self._spans if span.trace_id == trace_id]
            if names <= {span.name for span in found} or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


def _span(service: str, span: Any) -> Span:
    values = {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}
    return Span(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        values,
    )

"""The demo server that most benchmarks start: its engine flags and its well-known keys."""

from __future__ import annotations

import demo
from benchmarks.harness.servers import EngineFlags

#: Tenant → inference key. The same keys as in `server.app.demo_seed`, whose import is slow.
DEMO_KEYS = {"acme": "demo-acme", "globex": "demo-globex"}
OPERATOR_KEY = "demo-admin"
DEMO_FLAGS = EngineFlags(model=demo.MODEL_DIR, name=demo.SERVED_NAME, tool_parser="hermes")

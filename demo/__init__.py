"""The embedded demo: a small Qwen2 model trained on generated text, and two tenants' adapters for it.

Importing this package is cheap: it only defines paths and names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent

MODEL_DIR: Path = _HERE / "model"
SERVED_NAME = "loragate-demo"


@dataclass(frozen=True, slots=True)
class DemoAdapter:
    """An adapter of the demo: its tenant, its folder and its training data."""

    tenant: str
    name: str
    path: Path
    data: Path
    held_out: Path

    @property
    def public_name(self) -> str:
        """The model name that a client sends."""
        return f"{self.tenant}-{self.name}"


def _adapter(tenant: str, name: str) -> DemoAdapter:
    file = f"{tenant}-{name}"
    data = _HERE / "data"
    return DemoAdapter(
        tenant, name, _HERE / "adapters" / file, data / f"{file}.jsonl", data / f"{file}.heldout.jsonl"
    )


ADAPTERS: dict[str, DemoAdapter] = {
    adapter.public_name: adapter for adapter in (_adapter("acme", "support"), _adapter("globex", "tools"))
}

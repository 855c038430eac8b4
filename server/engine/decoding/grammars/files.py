"""The file in which a worker hands a checked grammar to the engine: one line of JSON, then the grammar.

Its name is the grammar's key. Nothing in it is executed when it is read: a worker has parsed a tenant's input.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

#: How `StructuredOutputsParams.grammar` names a prepared grammar; no grammar of a caller gets to the engine.
PREFIX = "loragate-grammar:"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A grammar that a worker has compiled and tried."""

    library: str
    """Whose it is: a name in `Libraries`."""
    kind: str
    """The name of vLLM's `StructuredOutputOptions`."""
    is_compiled: bool
    """Whether `content` is the library's own form; otherwise the engine compiles it again, which is cheaper."""
    content: bytes


def write_grammar(path: Path, scratch: Path, prepared: Prepared) -> int:
    """Write the file of a grammar at once, by way of `scratch` in the same folder; returns its bytes."""
    head = asdict(prepared)
    del head["content"]
    scratch.write_bytes(json.dumps(head).encode() + b"\n" + prepared.content)
    size = scratch.stat().st_size
    scratch.replace(path)
    return size


def read(path: Path) -> Prepared:
    """Read the file. Raises: OSError, ValueError."""
    head, _, content = path.read_bytes().partition(b"\n")
    return Prepared(**json.loads(head), content=content)

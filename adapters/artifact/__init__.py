"""Whether an adapter's files can be served, told before the engine sees them; from the files, without torch.

vLLM 0.32 refuses some adapters with an obscure error and serves others wrong without a word (a wrong key
prefix answers as the pure base model). Both are refused here, each with one sentence that names what was
found, what was expected and what helps.
"""

from __future__ import annotations

from adapters.artifact.files import CONFIG, TRAINING, WANTED, WEIGHTS, require_files
from adapters.artifact.inspection import ArtifactReport, inspect_artifact
from adapters.artifact.shape import BaseShape

__all__ = [
    "CONFIG",
    "TRAINING",
    "WANTED",
    "WEIGHTS",
    "ArtifactReport",
    "BaseShape",
    "inspect_artifact",
    "require_files",
]

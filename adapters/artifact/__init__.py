"""Checks whether an adapter's files can be served, before the engine sees them and without torch.

vLLM 0.32 refuses some adapters with an obscure error and serves others wrongly in silence (with a wrong key prefix
the answers are those of the base model). Both are refused here, with a message that has what was found, what was
expected and what helps.
"""

from __future__ import annotations

from adapters.artifact.applied_layers import changed_layers, explain_unapplied
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
    "changed_layers",
    "explain_unapplied",
    "inspect_artifact",
    "require_files",
]

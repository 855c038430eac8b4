"""The kinds of fields of `TrainingConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, Field

T = TypeVar("T")
NO_EFFECT: Final = object()
#: A field that the trained weights do not depend on; it is left out of hyperparameters and fingerprint.
NoEffect = Annotated[T, NO_EFFECT]
Share = Annotated[float, Field(ge=0, lt=1)]


def _as_files(given: Any) -> Any:
    """One path as a tuple of one."""
    return (given,) if isinstance(given, str | Path) else given


#: Any number of files; a single path is taken too.
DataFiles = Annotated[tuple[Path, ...], BeforeValidator(_as_files)]

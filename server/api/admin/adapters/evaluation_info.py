"""An evaluation as /admin/v1 shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from adapters.registry.figures.evaluations import EvaluationState


class EvaluationInfo(BaseModel):
    """One version on some chats: how far it is, and its figures when it has finished.

    `data_digest` is the SHA-256 of the chats. `figures`: shares (0 to 1) of right answers (`exact`, `calls_right`),
    of valid JSON (`json_valid`), of answers that end (`stops`) and that repeat themselves (`repeats`); `loss`, nats
    per token of the expected answers; and the numbers that they are of. With a judge: `win_rate`, or
    `not_judged`, the reason why there is none.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    tenant: str
    adapter: str
    version: int
    state: EvaluationState
    turns: int | None
    done: int
    figures: dict[str, Any] | None
    error: str | None
    data_digest: str
    options: dict[str, Any]
    by: str
    created_at: datetime
    ended_at: datetime | None

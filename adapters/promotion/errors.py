"""The errors of evaluations and of the conditions of promotions. They belong to the tree in `adapters.errors`."""

from __future__ import annotations

from adapters.errors import AdapterError, BadValue, Conflict, NotFound


class UnknownEvaluation(NotFound):
    """The adapter has no evaluation with this id."""

    def __init__(self) -> None:
        super().__init__("There is no such evaluation; `loragate adapter show` lists those of an adapter.")


class TooManyEvaluations(AdapterError):
    """A tenant asks for more evaluations at the same time than it may have."""

    def __init__(self, tenant: str, limit: int) -> None:
        super().__init__(
            f"{limit} evaluations of tenant {tenant!r} run or wait, the most at the same time; try again when one of "
            "them has ended, or cancel one."
        )
        self.retry_after_s = 30.0


class EvaluationRefused(AdapterError):
    """The chats of an evaluation cannot be used; the message has the value and the limit, or the line."""


class BadCondition(BadValue):
    """The condition of a promotion cannot be read; the message shows the part."""


class ConditionNotMet(Conflict):
    """A version does not meet the condition of a promotion; the message names the figure."""

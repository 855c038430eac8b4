"""Rollback against a model: a stack of promotions, on which a split lies without being one."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from adapters.models import AliasChange, AliasTarget
from adapters.registry.aliases import change_before

NOW = datetime.now(UTC)
SPLIT = (AliasTarget(1, 9), AliasTarget(2, 1))
STEPS = st.lists(st.sampled_from(["roll back", "split", 1, 2, 3]), max_size=30)


class Model:
    def __init__(self) -> None:
        self.stack: list[int] = []
        self.is_split = False

    def promote(self, number: int) -> None:
        self.is_split = False
        if self.stack[-1:] != [number]:
            self.stack.append(number)

    def roll_back(self) -> int | None:
        if not self.is_split:
            if len(self.stack) < 2:
                return None
            self.stack.pop()
        elif not self.stack:
            return None
        self.is_split = False
        return self.stack[-1]


@given(STEPS)
@example([1, 2, "roll back", 1, "roll back"])  # once went to 2, which had been left
@example([1, 2, 3, "roll back", "roll back", "roll back"])
@example([1, "split", "roll back", "roll back"])
def test_rollback_is_a_stack(steps: list[str | int]) -> None:
    model, changes = Model(), list[AliasChange]()
    for step in steps:
        targets, restored = SPLIT, None
        if isinstance(step, int):
            targets = (AliasTarget(step),)
            model.promote(step)
        elif step == "split":
            model.is_split = True
        else:
            previous = change_before(changes, {1, 2, 3}) if changes else None
            expected = model.roll_back()
            assert (previous.targets if previous else None) == (
                (AliasTarget(expected),) if expected else None
            )
            if previous is None:
                continue
            targets, restored = previous.targets, previous.generation
        changes.insert(0, AliasChange(len(changes) + 1, targets, NOW, "x", restored))


def test_versions_that_are_not_ready_are_passed_over() -> None:
    changes = [AliasChange(n, (AliasTarget(n),), NOW, "x") for n in (4, 3, 2, 1)]
    found = change_before(changes, {1, 2, 4})
    assert found is not None and found.generation == 2
    assert change_before(changes, {4}) is None

"""Checks, before versions get traffic, the conditions that their figures must meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.models import Actor, AdapterView, Alias, AliasTarget
from adapters.names import public_name
from adapters.promotion.condition import Condition, Verdict
from adapters.promotion.errors import ConditionNotMet
from adapters.registry import Registry
from adapters.registry.figures.evaluations import Evaluation, EvaluationState


@dataclass(frozen=True, slots=True)
class PromotionChecker:
    """The conditions of one registry's adapters.

    An adapter may have a condition of its own, without which no version gets traffic; a promotion may bring one more.
    """

    registry: Registry

    async def check(
        self, view: AdapterView, targets: Sequence[AliasTarget], condition: str | None, *, by: Actor
    ) -> Mapping[str, Any] | None:
        """Check what these targets change: versions that have no traffic yet, or that are to have all of it.

        Args:
            view: the adapter as it is now.
            targets: the versions that are to have its traffic.
            condition: what this promotion has to meet beside the adapter's own condition.
            by: who promotes; a refusal is in the audit log.

        Returns:
            For the audit log: the conditions and the figures by version; None where nothing had to be checked.

        Raises:
            BadCondition: a condition cannot be read.
            ConditionNotMet: a version does not meet one, or has not been evaluated; the message names the figure.
        """
        texts = dict.fromkeys(text for text in (view.adapter.condition, condition) if text)
        numbers = _to_check(view.alias, targets)
        if not texts or not numbers:
            return None
        conditions = [Condition.parse(text) for text in texts]
        checked = _Checked([each.text for each in conditions], {})
        try:
            for number in numbers:
                for each in conditions:
                    await self._check_version(view, number, each, checked)
        except ConditionNotMet as refusal:
            details = {**checked.as_dict(), "refused": str(refusal)}
            await self.registry.audit.note(by, "alias.refuse", view.adapter.public_name, details)
            raise
        return checked.as_dict()

    async def _check_version(
        self, view: AdapterView, number: int, condition: Condition, checked: _Checked
    ) -> None:
        """Raises: ConditionNotMet."""
        tenant, adapter = view.adapter.tenant, view.adapter.name
        name = f"{public_name(tenant, adapter)}@{number}"
        own = await self._finished(tenant, adapter, number)
        if not own:
            raise ConditionNotMet(
                f"{name} is not promoted: it has not been evaluated, and its condition is {condition.text!r}. "
                f"Evaluate it first: loragate adapter evaluate {name} --data FILE."
            )
        evaluation, current = own[0], None
        if condition.needs_current:
            serving = current_version(view.alias)
            if serving is None:
                raise ConditionNotMet(
                    f"{name} is not promoted: no version has traffic, so there is no @current to compare with. "
                    "Promote the first version before the adapter has such a condition."
                )
            pair = _pair(own, await self._finished(tenant, adapter, serving))
            if pair is None:
                raise ConditionNotMet(
                    f"{name} is not promoted: version {serving}, the current one, has not been evaluated on the same "
                    f"chats. Evaluate both: loragate adapter evaluate {name} --data FILE --against @{serving}."
                )
            evaluation, current = pair
            checked.figures[str(serving)] = _shown(current)
        checked.figures[str(number)] = _shown(evaluation)
        verdict = condition.judge(evaluation.figures or {}, current.figures if current else None)
        if not verdict.passes:
            raise ConditionNotMet(_refusal(name, verdict, current))

    async def _finished(self, tenant: str, adapter: str, number: int) -> list[Evaluation]:
        """The finished evaluations of a version, the newest first."""
        found = await self.registry.evaluations.list(tenant, adapter, number)
        return [each for each in found if each.state is EvaluationState.FINISHED]


@dataclass(frozen=True, slots=True)
class _Checked:
    """What was checked, for the audit log."""

    conditions: list[str]
    figures: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"conditions": self.conditions, "figures": self.figures}


def current_version(alias: Alias) -> int | None:
    """The version with the most traffic, which `@current` stands for; None where none has any."""
    if not alias.targets:
        return None
    return max(alias.targets, key=lambda target: (target.weight, -target.number)).number


def _to_check(alias: Alias, targets: Sequence[AliasTarget]) -> list[int]:
    """Versions that have no traffic yet, or that are to have all of it and are not the current one."""
    numbers = [target.number for target in targets]
    if len(numbers) == 1:
        return [number for number in numbers if number != current_version(alias)]
    served = {target.number for target in alias.targets}
    return [number for number in numbers if number not in served]


def _pair(own: Sequence[Evaluation], others: Sequence[Evaluation]) -> tuple[Evaluation, Evaluation] | None:
    """The newest evaluation of which the other version has one on the same chats, and that one."""
    comparable = {other.is_comparable_by: other for other in reversed(others)}
    both = ((each, comparable.get(each.is_comparable_by)) for each in own)
    return next(((each, other) for each, other in both if other is not None), None)


def _shown(evaluation: Evaluation) -> dict[str, Any]:
    return {"evaluation": evaluation.id, "data": evaluation.data_digest, **(evaluation.figures or {})}


def _refusal(name: str, verdict: Verdict, current: Evaluation | None) -> str:
    beside = f" (@current is version {current.version})" if current else ""
    reasons = "; ".join(verdict.reasons)
    return f"{name} is not promoted{beside}: {reasons}. Promote another version, or change the condition."

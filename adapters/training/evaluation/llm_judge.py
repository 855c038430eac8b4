"""A language model as judge: which of two answers is better, asked in both orders.

A judge often prefers the answer that it reads first, or last. So an answer wins only if it is preferred in both
orders; everything else is a tie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import openai

from adapters.training.errors import IntegrationError

Verdict = Literal["first", "second", "tie"]

_AT_ONCE = 4
_TIMEOUT_S = 120.0
_MAX_TOKENS = 512
_VERDICT = re.compile(r"verdict\W*\b(A|B|tie)\b", re.IGNORECASE)
_WORDS: dict[str, Verdict] = {"a": "first", "b": "second", "tie": "tie"}
_RULES = (
    "You compare two answers of an assistant to the same conversation. Judge whether they are right, complete, in "
    "the form that was asked for, and no longer than needed. A reference answer, where given, is right; other words "
    "that say the same are as good. The order of the answers means nothing. Give your reason in one sentence, then "
    "end with exactly one line: `Verdict: A`, `Verdict: B` or `Verdict: tie`."
)


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one conversation. ``expected`` is the answer in the held-out data."""

    conversation: str
    expected: str
    new: str
    old: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdicts on the new answers against the old ones.

    ``same``: ties of equal answers; ``swayed``: ties where the judge preferred the same position in both orders;
    ``unclear``: replies without a verdict, each counted as a tie.
    """

    against: str
    wins: int
    losses: int
    ties: int
    same: int
    swayed: int
    unclear: int

    @property
    def win_rate(self) -> float:
        """Wins plus half of the ties, over all pairs."""
        return round((self.wins + self.ties / 2) / max(self.wins + self.losses + self.ties, 1), 4)

    def as_dict(self) -> dict[str, Any]:
        """For ``training.json``."""
        return asdict(self) | {"win_rate": self.win_rate}


class Judge:
    """One model behind an OpenAI-compatible endpoint. Use as a context manager: it holds connections."""

    def __init__(self, url: str, model: str, key: str) -> None:
        # The client requires a key; servers without keys accept any.
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=_TIMEOUT_S, max_retries=2)
        self._model = model

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check(self) -> None:
        """Ask an easy question, before the training spends hours.

        Raises:
            IntegrationError: it does not answer.
        """
        try:
            self.prefer("user: Say hello.", "Hello!", "Hello!", "Go away.")
        except openai.OpenAIError as error:
            raise IntegrationError(
                f"The judge {self._model} does not answer: {error}. Check --judge, --judge-model and --judge-key."
            ) from error

    def prefer(self, conversation: str, expected: str, first: str, second: str) -> Verdict | None:
        """The better answer, in this order; None if the reply has no verdict.

        Raises:
            openai.OpenAIError: the endpoint fails.
        """
        reply = self._client.chat.completions.create(
            **question(self._model, conversation, expected, first, second)
        )
        return verdict_in(reply.choices[0].message.content)


def question(model: str, conversation: str, expected: str, first: str, second: str) -> dict[str, Any]:
    """The arguments of the chat completion that asks a judge for the better of two answers."""
    reference = f"Reference answer:\n{expected}\n\n" if expected else ""
    asked = f"Conversation:\n{conversation}\n\n{reference}Answer A:\n{first}\n\nAnswer B:\n{second}"
    return {
        "model": model,
        "messages": [{"role": "system", "content": _RULES}, {"role": "user", "content": asked}],
        "temperature": 0.0,
        "max_tokens": _MAX_TOKENS,
    }


def verdict_in(reply: str | None) -> Verdict | None:
    """The verdict of a judge's reply; None if it has none."""
    found = _VERDICT.findall(reply or "")
    return _WORDS[found[-1].lower()] if found else None


def points(new_first: Verdict | None, old_first: Verdict | None) -> float:
    """1 for the new answer, 0 for the old one, 1/2 for a tie: the verdicts with either of them as the first."""
    return {("first", "second"): 1.0, ("second", "first"): 0.0}.get((new_first or "", old_first or ""), 0.5)


def compare(
    prefer: Callable[[str, str, str, str], Verdict | None], pairs: Sequence[AnswerPair], against: str
) -> Comparison:
    """Let ``prefer`` judge every pair in both orders; equal answers are ties without a question."""
    different = [pair for pair in pairs if pair.new != pair.old]

    def both(pair: AnswerPair) -> tuple[Verdict | None, Verdict | None]:
        return (
            prefer(pair.conversation, pair.expected, pair.new, pair.old),
            prefer(pair.conversation, pair.expected, pair.old, pair.new),
        )

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        verdicts = list(pool.map(both, different))
    wins = verdicts.count(("first", "second"))
    losses = verdicts.count(("second", "first"))
    return Comparison(
        against=against,
        wins=wins,
        losses=losses,
        ties=len(pairs) - wins - losses,
        same=len(pairs) - len(different),
        swayed=sum(one == other and one in ("first", "second") for one, other in verdicts),
        unclear=sum((one is None) + (other is None) for one, other in verdicts),
    )

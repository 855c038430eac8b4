"""Feedback is taken for one's own answers, kept with the tenant that answered, and told to who listens."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.models import Feedback, Key, Rating, Role, Tenant, Version, VersionState
from adapters.training.data.preferences.rows import PreferenceRow, read_preference_rows
from adapters.training.data.reader import read_conversations
from server.errors import InvalidRequest, UnknownRequest
from server.request.context import Caller
from server.usage.feedback import FeedbackService, training_lines
from server.usage.recent_requests import RecentAnswers
from server.usage.shared_answers import SharedAnswers

NOW = datetime.now(UTC)
VERSION = Version("acme", "support", 2, 7, VersionState.READY, "", NOW)
CHAT = [{"role": "user", "content": "Where is my order?"}, {"role": "assistant", "content": "On its way."}]


class Heard:
    """A store and a listener."""

    def __init__(self) -> None:
        self.kept: list[Feedback] = []
        self.ratings: list[tuple[str, Version | None, Rating]] = []

    async def put(self, said: Feedback) -> None:
        self.kept.append(said)

    def rated(self, tenant: str, version: Version | None, rating: Rating) -> None:
        self.ratings.append((tenant, version, rating))


def caller(tenant: str | None) -> Caller:
    role = Role.INFERENCE if tenant else Role.OPERATOR
    key = Key("k", tenant, role, "lg-", "0", None, None, None, NOW)
    return Caller(key, Tenant(tenant) if tenant else None)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def answers() -> SharedAnswers:
    answers = SharedAnswers(RecentAnswers(), None)
    answers.note("acme", "r1", VERSION)
    answers.note("", "r2", VERSION)
    answers.note("acme", "r3", None)
    return answers


@pytest.fixture
def service(answers: SharedAnswers, heard: Heard) -> FeedbackService:
    return FeedbackService(answers, heard.put, [heard.rated], keeps_messages=True)


async def test_it_is_kept_with_adapter_and_version(service: FeedbackService, heard: Heard) -> None:
    said = await service.submit(caller("acme"), "chatcmpl-r1", Rating.DOWN, reason="wrong", comment="no")
    assert (said.tenant, said.request_id, said.adapter, said.version) == ("acme", "r1", "support", 2)
    assert heard.kept == [said] and heard.ratings == [("acme", VERSION, Rating.DOWN)]
    base = await service.submit(caller("acme"), "r3", Rating.UP)
    assert (base.tenant, base.adapter, base.version) == ("acme", "", 0)


async def test_an_operators_word_is_kept_with_the_tenant_that_answered(service: FeedbackService) -> None:
    assert (await service.submit(caller(None), "r2", Rating.UP)).tenant == "acme"


@pytest.mark.parametrize(("tenant", "request_id"), [("globex", "r1"), ("acme", "r2"), ("acme", "r9")])
async def test_somebody_elses_request_is_as_one_that_is_not(
    service: FeedbackService, heard: Heard, tenant: str, request_id: str
) -> None:
    with pytest.raises(UnknownRequest) as refused:
        await service.submit(caller(tenant), request_id, Rating.UP)
    assert str(refused.value) == str(UnknownRequest(request_id)) and heard.kept == []


async def test_chats_are_kept_only_where_the_operator_said_so(answers: SharedAnswers, heard: Heard) -> None:
    service = FeedbackService(answers, heard.put, [], keeps_messages=False)
    with pytest.raises(InvalidRequest, match="--keep-feedback-messages") as refused:
        await service.submit(caller("acme"), "r1", Rating.UP, messages=CHAT)
    assert refused.value.code == "messages_not_kept" and heard.kept == []
    assert not (await service.submit(caller("acme"), "r1", Rating.UP)).messages


async def test_the_export_is_what_the_trainer_reads(
    service: FeedbackService, heard: Heard, tmp_path: Path
) -> None:
    await service.submit(caller("acme"), "r1", Rating.UP, messages=CHAT)
    await service.submit(caller("acme"), "r3", Rating.UP)
    lines = list(training_lines(heard.kept))
    assert [json.loads(line)["messages"] for line in lines] == [CHAT]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    assert [list(chat.messages) for chat in read_conversations(file)] == [CHAT]


async def test_the_replaced_answer_makes_a_pair_of_answers(service: FeedbackService, tmp_path: Path) -> None:
    said = await service.submit(
        caller("acme"), "r1", Rating.DOWN, messages=CHAT, rejected="It was never ordered."
    )
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(training_lines([said])))
    [row] = [json.loads(line) for line in path.read_text().splitlines()]
    assert row["messages"] == CHAT and row["rejected"] == "It was never ordered."
    [pair] = read_preference_rows(path)
    assert isinstance(pair, PreferenceRow) and pair.chosen is not None and pair.rejected is not None
    assert pair.chosen.messages[-1]["content"] == "On its way."
    assert pair.rejected.messages[-1]["content"] == "It was never ordered."
    assert read_conversations(path)[0].messages[-1]["content"] == "On its way."


async def test_a_replaced_answer_needs_its_chat(service: FeedbackService, heard: Heard) -> None:
    with pytest.raises(InvalidRequest, match="needs `messages`"):
        await service.submit(caller("acme"), "r1", Rating.DOWN, rejected="No.")
    assert not heard.kept

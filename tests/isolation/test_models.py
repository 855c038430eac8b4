"""/v1/models lists what the caller may call, and nothing of anybody else's."""

from __future__ import annotations

import httpx
import openai
from server_process import ServerProcess


def test_the_listing_has_ones_own_only(server: ServerProcess) -> None:
    for tenant, own, other in (("acme", "acme-support", "globex"), ("globex", "globex-tools", "acme")):
        listing = httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer demo-{tenant}"})
        assert own in listing.text and other not in listing.text


def test_a_listed_model_is_found_and_a_foreign_one_is_not(acme: openai.OpenAI) -> None:
    for card in acme.models.list():
        assert acme.models.retrieve(card.id).id == card.id
    assert "globex-tools" not in {card.id for card in acme.models.list()}
    try:
        acme.models.retrieve("globex-tools")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("a foreign model was found")


def test_the_listing_tells_no_one_without_a_key_anything(server: ServerProcess) -> None:
    for headers in ({}, {"authorization": "Bearer lg-wrong"}):
        answer = httpx.get(f"{server.url}/v1/models", headers=headers, timeout=60)
        assert answer.status_code == 401
        assert "acme" not in answer.text and "globex" not in answer.text

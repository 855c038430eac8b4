"""A response is nobody's to fetch: none is stored, whoever asks."""

from __future__ import annotations

import httpx
import pytest

GLOBEX = {"authorization": "Bearer demo-globex"}


@pytest.fixture(scope="module")
def response_id(http: httpx.Client) -> str:
    """One that acme asked to be stored."""
    made = http.post("/v1/responses", json={"model": "acme-support", "input": "Hello!", "store": True})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/cancel"), ("DELETE", "")])
def test_no_route_leads_to_a_response(http: httpx.Client, response_id: str, method: str, path: str) -> None:
    for made_up in (response_id, "resp_0"):
        url = f"/v1/responses/{made_up}{path}"
        assert http.request(method, url, headers=GLOBEX).status_code == 404
        assert http.request(method, url).status_code == 404, "its own caller neither"


def test_nobody_goes_on_from_a_response(http: httpx.Client, response_id: str) -> None:
    """A foreign id answers as one that never was."""
    told = []
    for previous in (response_id, "resp_" + "0" * (len(response_id) - 5)):
        body = {"model": "globex-tools", "input": "And?", "previous_response_id": previous}
        answer = http.post("/v1/responses", json=body, headers=GLOBEX)
        assert answer.status_code in (400, 404), answer.text
        told.append(answer.text.replace(previous, "ID"))
    assert told[0] == told[1]


def test_a_response_in_the_background_is_refused(http: httpx.Client) -> None:
    """It would have to be stored until somebody fetches it."""
    body = {"model": "acme-support", "input": "Hello!", "background": True}
    assert http.post("/v1/responses", json=body).status_code == 400

"""Sign-in is configured completely, or the server says in one sentence what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.config.settings import load
from server.config.sign_in import digest_of
from server.errors import SettingsError

RULE = {"claim": "groups", "value": "ops", "role": "operator"}
WHOLE: dict[str, Any] = {
    "demo": True,
    "public_url": "https://models.example.org",
    "sign_in_issuer": "https://id.example.org",
    "sign_in_client_id": "loragate",
    "sign_in_client_secret": "hush",
    "sign_in_roles": json.dumps([RULE]),
}


def test_all_of_it_or_none() -> None:
    assert digest_of(load({"demo": True, "public_url": "https://models.example.org"})) == ""
    settings = load(WHOLE)
    assert settings.sign_in_roles[0].role == "operator" and "hush" not in repr(settings)
    for name in WHOLE.keys() - {"demo"}:
        with pytest.raises(SettingsError) as refusal:
            load(WHOLE | {name: ""} if name != "sign_in_roles" else WHOLE | {name: "[]"})
        flag = f"--{name.replace('_', '-')}"
        assert f"Sign-in needs {flag} beside" in str(refusal.value) and "hush" not in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"public_url": "http://models.example.org"}, "is not https"),
        ({"sign_in_issuer": "http://id.example.org"}, "is not https"),
        ({"sign_in_issuer": "id.example.org"}, "is no URL of a server"),
        ({"public_url": "https://models.example.org/?a=b"}, "is no URL of a server"),
        ({"sign_in_scopes": "email"}, "lacks openid"),
        ({"sign_in_roles": "ops"}, "Write a JSON list of rules"),
        ({"sign_in_roles": "{}"}, "This is no list"),
        ({"sign_in_roles": json.dumps([RULE | {"tenant": "acme"}])}, "belongs to no tenant"),
        ({"sign_in_roles": json.dumps([RULE | {"role": "tenant_admin"}])}, "needs a tenant"),
        ({"sign_in_roles": json.dumps([RULE | {"value": ""}])}, "a claim and its value"),
        (
            {"sign_in_roles": json.dumps([RULE | {"role": "king"}])},
            "'operator', 'tenant_admin' or 'read_only'",
        ),
        ({"sign_in_roles": json.dumps([RULE | {"tenants": "x"}])}, "Extra inputs are not permitted"),
        (
            {"sign_in_roles": json.dumps([RULE | {"role": "read_only", "tenant": "a", "tenant_claim": "b"}])},
            "not both",
        ),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(WHOLE | changes)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


def test_loopback_needs_no_tls() -> None:
    load(WHOLE | {"public_url": "http://localhost:8000", "sign_in_issuer": "http://127.0.0.1:9000"})


def test_secret_and_rules_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from-file\n")
    (tmp_path / "config.toml").write_text(
        '[[sign_in_roles]]\nclaim = "groups"\nvalue = "ops"\nrole = "operator"\n'
    )
    monkeypatch.setenv("LORAGATE_SIGN_IN_CLIENT_SECRET_FILE", str(tmp_path / "secret"))
    given = {name: WHOLE[name] for name in WHOLE if name not in ("sign_in_client_secret", "sign_in_roles")}
    settings = load(given, config=tmp_path / "config.toml")
    assert settings.sign_in_client_secret == "from-file"
    assert digest_of(settings) == digest_of(load(WHOLE))
    other = json.dumps([RULE | {"value": "others"}])
    assert digest_of(load(WHOLE | {"sign_in_roles": other})) != digest_of(settings)

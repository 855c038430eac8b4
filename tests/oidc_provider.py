"""A real OpenID Connect provider (oidc-provider-mock) on a free port, which can be made to lie."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import oidc_provider_mock
import werkzeug.serving

PEOPLE: dict[str, dict[str, Any]] = {
    "ann": {"email": "ann@example.org", "email_verified": True, "groups": ["staff", "llm-operators"]},
    "bob": {"email": "bob@acme.example", "email_verified": True, "groups": ["acme-admins"]},
    "eve": {"email": "ann@example.org", "email_verified": False, "groups": ["visitors"]},
    "rita": {"email": "rita@example.org", "email_verified": True, "groups": ["auditors"]},
    "gus": {"email": "gus@gone.example", "email_verified": True, "org": "gone"},
    "glo": {"email": "glo@globex.example", "email_verified": True, "org": "globex"},
}


@dataclass
class OidcProvider:
    """The provider's URL; `client_id` replaces the client that asks, so that tokens are for somebody else."""

    url: str
    client_id: str = ""
    requests: list[str] = field(default_factory=list)

    def sign_in(self, authorization_url: str, person: str) -> str:
        """What a person does on the provider's page; the URL that the browser is sent back to."""
        answer = httpx.post(authorization_url, data={"sub": person})
        assert answer.status_code == 302, answer.text
        return str(answer.headers["location"])


@contextmanager
def oidc_provider(**options: Any) -> Iterator[OidcProvider]:
    """A provider with PEOPLE that listens until the end of the block."""
    users = [oidc_provider_mock.User(sub=name, claims=claims) for name, claims in PEOPLE.items()]
    app = oidc_provider_mock.app(user_claims=users, **options)
    provider = OidcProvider("")

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        provider.requests.append(environ["PATH_INFO"])
        if provider.client_id:
            environ["QUERY_STRING"] = environ["QUERY_STRING"].replace("client_id=loragate", "client_id=other")
            if "HTTP_AUTHORIZATION" in environ:
                environ["HTTP_AUTHORIZATION"] = f"Basic {base64.b64encode(b'other:secret').decode()}"
        return app(environ, start_response)

    server = werkzeug.serving.make_server("localhost", 0, answer, threaded=True)
    provider.url = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield provider
    server.shutdown()
    thread.join()
    server.server_close()


EXPIRED = {"access_token_max_age": timedelta(hours=-1)}

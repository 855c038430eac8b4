"""What a person at a terminal reads when the server is ready: where it is, a request to paste, how to stop."""

from __future__ import annotations

import json
from collections.abc import Mapping

from server.app.demo_seed import DEMO_KEYS
from server.config.settings import Settings

#: What each of the demo's keys is for.
_DEMO_USES: Mapping[str, str] = {
    "demo-acme": "calls acme's adapter, acme-support",
    "demo-globex": "calls globex's adapter, globex-tools",
    "demo-admin": "operator: sign in to the console with it",
}


def banner(settings: Settings, url: str, *, has_keys: bool) -> str:
    """The text.

    Args:
        settings: what is served.
        url: where the server listens.
        has_keys: whether the registry has a key, so that somebody can call the server.
    """
    parts = [f"\nloragate is ready.\n\n  API      {url}/v1\n  Console  {url}/console"]
    if settings.demo:
        keys = "\n".join(f"  {secret:<13}{_DEMO_USES[secret]}" for secret in DEMO_KEYS)
        parts.append(f"Keys of the demo:\n{keys}")
    elif not has_keys:
        parts.append(
            "There is no key yet. Make an operator's key in another terminal, with the same settings for the "
            "database:\n  loragate key add --role operator"
        )
    parts.append(f"A request, to paste into another terminal:\n{_request(settings, url)}")
    parts.append(
        f"Ctrl-C stops the server; answers that run have {settings.shutdown_timeout:g} s to finish, and a second "
        "Ctrl-C ends them.\n"
    )
    return "\n\n".join(parts)


def _request(settings: Settings, url: str) -> str:
    """A command of curl that the server answers."""
    key, model = (
        ("demo-acme", "acme-support") if settings.demo else ("$LORAGATE_KEY", settings.base_model_name)
    )
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}
    authority = "--cacert CERTIFICATE.pem " if settings.tls_cert else ""
    return (
        f"  curl -s {authority}{url}/v1/chat/completions \\\n"
        f'    -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\\n'
        f"    -d '{json.dumps(body)}'"
    )

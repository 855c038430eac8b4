"""The signature of a message."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from adapters.billing.webhooks import BACKOFF, new_secret, signed_headers


def test_the_signature_is_that_of_the_schemes_example() -> None:
    """The example of the libraries' own tests."""
    headers = signed_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        '{"test": 2432232314}',
        datetime.fromtimestamp(1614265330, UTC),
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_secrets_are_random_and_long() -> None:
    secrets = {new_secret() for _ in range(10)}
    assert len(secrets) == 10
    assert all(
        len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32 for secret in secrets
    )


def test_attempts_go_on_for_three_days_with_growing_pauses() -> None:
    assert list(BACKOFF) == sorted(BACKOFF)
    assert 3 <= sum(pause.total_seconds() for pause in BACKOFF) / 86_400 < 7

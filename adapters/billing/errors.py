"""The errors of prices and webhooks; their root is of `adapters.errors`.

NotFound
├── UnknownPrice
└── UnknownWebhook
"""

from __future__ import annotations

from adapters.errors import NotFound


class UnknownPrice(NotFound):
    """The price list has no such line."""

    def __init__(self, scope: str, valid_from: str) -> None:
        super().__init__(
            f"There is no price for {scope!r} from {valid_from}; `loragate price list` shows all prices."
        )


class UnknownWebhook(NotFound):
    """No webhook has this id."""

    def __init__(self, webhook_id: str) -> None:
        super().__init__(
            f"There is no webhook {webhook_id[:64]!r}; `loragate webhook list` shows all webhooks."
        )

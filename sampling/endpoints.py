"""The endpoints that generate text."""

from __future__ import annotations

from enum import StrEnum


class Endpoint(StrEnum):
    """One of the four APIs that accept decoding options."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"

    @property
    def path(self) -> str:
        """The public route."""
        return "/v1/chat/completions" if self is Endpoint.CHAT else f"/v1/{self.value}"

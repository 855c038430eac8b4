"""The endpoints that generate text, and their paths."""

from __future__ import annotations

from enum import StrEnum


class Endpoint(StrEnum):
    """One of the four APIs that take decoding options."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"

    @property
    def path(self) -> str:
        """The route, as a caller knows it."""
        return "/v1/chat/completions" if self is Endpoint.CHAT else f"/v1/{self.value}"

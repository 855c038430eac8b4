"""Marks the control tokens of one tokenizer in callers' text, and encodes what a template made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.control_tokens.encoding import Encoded, Encoder
from adapters.control_tokens.marking import Marked, MarkedText, Marker


class ControlTokens:
    """The control tokens of one tokenizer: its added tokens, except white space that is not special."""

    def __init__(self, tokenizer: Any, written_by_server: str = "") -> None:
        """
        Args:
            tokenizer: a tokenizer of transformers.
            written_by_server: text that the server itself writes into callers' strings (placeholders of images); its
                tokens stay control tokens everywhere.
        """
        added = getattr(tokenizer, "added_tokens_decoder", {})
        control = {
            id_: token
            for id_, token in added.items()
            # One character cannot be divided by a mark; no template uses such a token between turns.
            if len(token.content) > 1
            and (token.special or token.content.strip())
            and token.content not in written_by_server
        }
        self._marker = Marker({token.content: bool(token.special) for token in control.values()})
        self._encoder = Encoder(tokenizer, frozenset(control))

    def mark(self, messages: Sequence[Any], variables: Mapping[str, Any]) -> Marked | None:
        """The arguments of a chat template with marks in the control tokens; None when there are none to mark.

        Args:
            messages: the conversation, as the template gets it.
            variables: what else a caller gives the template: tools and further keyword arguments.

        Raises:
            UnmarkableText: the text is nested too deeply, or has a control token and all possible marks.
        """
        return self._marker.mark(messages, variables)

    def encode(self, text: MarkedText, *, add_special_tokens: bool = False) -> Encoded:
        """The tokens of a rendered conversation whose template's arguments were marked.

        Args:
            text: what the template wrote.
            add_special_tokens: whether the tokenizer adds its own tokens before and after the text.
        """
        return self._encoder.encode(text, add_special_tokens=add_special_tokens)

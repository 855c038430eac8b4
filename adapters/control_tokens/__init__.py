"""Control tokens in callers' text stay text: server and trainer encode conversations by the same rule.

A chat template writes a conversation into one string, with control tokens between its turns, and the tokenizer finds
them by their text. It cannot know who wrote them: a question that contains `<|im_end|>` would end its turn, and the
rest of it could pass for a system message.

The rule: the text between two control tokens that the *template* wrote is encoded as a tokenizer without control
tokens would encode it. For this, `ControlTokens.mark` puts a character that the request does not have (the *mark*)
into every control token of the caller's strings, the template writes the marked strings, and `ControlTokens.encode`
finds the template's tokens and encodes each stretch that has a mark without marks and without control tokens. Text
without control tokens is never marked, and its ids are the tokenizer's own.

In the *content* of assistant messages only the tokenizer's special tokens are text. Other control tokens, such as
`<think>` or `<tool_call>`, are in the model's own answers, and templates look for them there.
"""

from __future__ import annotations

from adapters.control_tokens.control_tokens import ControlTokens
from adapters.control_tokens.encoding import Encoded
from adapters.control_tokens.marking import Marked, MarkedText, UnmarkableText

__all__ = ["ControlTokens", "Encoded", "Marked", "MarkedText", "UnmarkableText"]

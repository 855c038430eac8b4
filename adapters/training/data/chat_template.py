"""The only place where a conversation becomes token ids and labels.

Masks are constructed, never searched for. Every assistant turn gives one sample: its prompt is the ids that the
server renders for that turn (same template, same keyword arguments), its target is what the template writes after
the prompt, through the end token. Turns are folded into one sequence only if the ids of the earlier sequence are a
prefix of the later prompt; if a template rewrites history (thinking Qwen3), they stay separate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.training.errors import TemplateError

# The label of a token that is not trained, as in torch.nn.functional.cross_entropy.
IGNORED = -100

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One chat in OpenAI ``messages`` form; tool-call ``arguments`` are objects, not JSON strings."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    line: int = 0
    form: str = "messages"  # its format in the file: messages, pairs or sharegpt


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids and their labels: the id itself if the token is trained, else ``IGNORED``."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained_tokens(self) -> int:
        """The number of trained tokens."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn: the conversation before it, and the ids of prompt and target."""

    before: tuple[Message, ...]
    answer: Message
    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def sample(self) -> Sample:
        """The turn as ids and labels: only the target is trained, and nothing if its ``weight`` is 0."""
        trained = self.target if self.answer.get("weight", 1) else (IGNORED,) * len(self.target)
        return Sample(self.prompt + self.target, (IGNORED,) * len(self.prompt) + trained)


@dataclass(frozen=True, slots=True)
class Renderer:
    """A base's tokenizer with its own chat template, called in the same way as the server calls it.

    ``template_kwargs`` must be those that the adapter is served with (for example ``enable_thinking``).
    """

    tokenizer: Any
    end_token: str
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def end_id(self) -> int:
        """The id that ends an assistant turn."""
        ids: list[int] = self.tokenizer.encode(self.end_token, add_special_tokens=False)
        if len(ids) != 1:
            raise TemplateError(
                f"The end token {self.end_token!r} is {len(ids)} tokens in the base's tokenizer, not one. "
                "Give --end-token the token that ends a turn in the base's chat template."
            )
        return ids[0]

    @property
    def pad_id(self) -> int:
        """The id that pads a batch; a tokenizer without one gives the end token."""
        pad_id: int | None = self.tokenizer.pad_token_id
        return self.end_id if pad_id is None else pad_id

    def render(self, messages: Sequence[Message], tools: Sequence[Any], *, prompt: bool) -> str:
        """The text of ``messages``; with ``prompt`` it ends with the beginning of an assistant turn."""
        text: str = self.tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=prompt,
            **self.template_kwargs,
        )
        return text

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of ``text``; control tokens in it are recognised, none are added."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Any]) -> tuple[int, ...]:
        """The ids that the server gives the engine for these messages."""
        return self.encode(self.render(messages, tools, prompt=True))

    def turns(self, conversation: Conversation) -> Iterator[Turn]:
        """Every assistant turn of ``conversation`` in order.

        Raises:
            TemplateError: the template does not write an answer directly after its own generation prompt, or
                does not end it with the end token.
        """
        for at, message in enumerate(conversation.messages):
            if message["role"] != "assistant":
                continue
            before = conversation.messages[:at]
            prompt = self.render(before, conversation.tools, prompt=True)
            whole = self.render(conversation.messages[: at + 1], conversation.tools, prompt=False)
            if not whole.startswith(prompt):
                raise TemplateError(
                    f"Line {conversation.line}, messages[{at}]: the chat template does not put the answer "
                    "directly after its generation prompt, so prompt and answer cannot be separated."
                )
            # NOTE: prompt and target are tokenised separately. In one text, a BPE merge across the boundary would
            # give ids that the server never produces (lattice#1545, AReaL#1427).
            yield Turn(
                before, message, self.encode(prompt), self._target(whole[len(prompt) :], conversation, at)
            )

    def _target(self, text: str, conversation: Conversation, at: int) -> tuple[int, ...]:
        """The ids of an answer through its end token; the template's line break after it is left out."""
        ids = self.encode(text)
        end = self.end_id
        stop = len(ids) - ids[::-1].index(end) if end in ids else 0
        if not stop or self.tokenizer.decode(ids[stop:]).strip():
            raise TemplateError(
                f"Line {conversation.line}, messages[{at}]: the chat template does not end the answer with "
                f"{self.end_token!r}. Give --end-token the token with which this template ends a turn."
            )
        if ids.count(end) > 1:
            raise TemplateError(
                f"Line {conversation.line}, messages[{at}]: the answer itself contains {self.end_token!r}, where the "
                "server would stop. Remove it from the data."
            )
        return ids[:stop]


def fold(turns: Sequence[Turn], max_length: int) -> tuple[list[Sample], int]:
    """Samples of at most ``max_length`` tokens, and the number of turns left out because they are too long.

    A turn is never cut: an answer without its end would teach the model not to stop, and the server never renders a
    prompt without its beginning.
    """
    samples: list[Sample] = []
    dropped = 0
    for turn in turns:
        sample = turn.sample()
        if len(sample.ids) > max_length:
            dropped += 1
            continue
        last = samples[-1] if samples else None
        if last is not None and turn.prompt[: len(last.ids)] == last.ids:
            samples[-1] = Sample(sample.ids, last.labels + sample.labels[len(last.ids) :])
        else:
            samples.append(sample)
    return [s for s in samples if s.trained_tokens], dropped

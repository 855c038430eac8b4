"""The only place where a conversation becomes token ids and labels.

Masks are constructed, never searched for. Every assistant turn gives one sample: its prompt is the ids that the
server renders for that turn (same template, same keyword arguments), its target is what the template writes after
the prompt, through the end token. Turns are folded into one sequence only if the ids of the earlier sequence are a
prefix of the later prompt; if a template rewrites history (thinking Qwen3), they stay separate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

from adapters.control_tokens import ControlTokens, MarkedText
from adapters.control_tokens.segments import SegmentEncoder
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
    form: str = "messages"  # its form in the file, as `formats.form_of` names it
    notes: tuple[str, ...] = ()  # what was changed or ignored when it was read


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids and their labels: the id itself if the token is trained, else ``IGNORED``."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained_tokens(self) -> int:
        """The number of trained tokens."""
        return len(self.labels) - self.labels.count(IGNORED)


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


class _Arguments(NamedTuple):
    """What the chat template gets, and the mark in its strings; without control tokens to mark it is empty."""

    messages: list[Any]
    variables: dict[str, Any]
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Renderer:
    """A base's tokenizer with its own chat template, called in the same way as the server calls it.

    ``template_kwargs`` must be those that the adapter is served with (for example ``enable_thinking``).
    Control tokens in the data are text, as they are in requests (``adapters.control_tokens``).
    """

    tokenizer: Any
    end_token: str
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    _control_tokens: ControlTokens = field(init=False, repr=False, compare=False)
    _segments: SegmentEncoder | None = field(init=False, repr=False, compare=False)
    _end_ids: list[int] = field(
        init=False, repr=False, compare=False, default_factory=list
    )  # filled on first use

    def __post_init__(self) -> None:
        object.__setattr__(self, "_control_tokens", ControlTokens(self.tokenizer))
        object.__setattr__(self, "_segments", SegmentEncoder.of(self.tokenizer))

    @property
    def end_id(self) -> int:
        """The id that ends an assistant turn."""
        if not self._end_ids:
            self._end_ids.extend(self.tokenizer.encode(self.end_token, add_special_tokens=False))
        ids = self._end_ids
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
        """The text of ``messages``; with ``prompt`` it ends with the beginning of an assistant turn.

        Control tokens in ``messages`` and ``tools`` are marked (``MarkedText``).
        """
        return self._write(self._arguments(messages, tools), len(messages), prompt=prompt)

    def _arguments(self, messages: Sequence[Message], tools: Sequence[Any]) -> _Arguments:
        variables = {"tools": list(tools) or None, **self.template_kwargs}
        marked = self._control_tokens.mark(messages, variables)
        return _Arguments(*marked) if marked else _Arguments(list(messages), variables)

    def _write(self, arguments: _Arguments, count: int, *, prompt: bool) -> str:
        """The text of the first ``count`` messages."""
        text: str = self.tokenizer.apply_chat_template(
            arguments.messages[:count], tokenize=False, add_generation_prompt=prompt, **arguments.variables
        )
        return MarkedText(text, arguments.mark) if arguments.mark else text

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of ``text``; control tokens in it are recognised where they are not marked, none are added."""
        if isinstance(text, MarkedText):
            return tuple(self._control_tokens.encode(text).ids)
        if self._segments is not None:
            return self._segments.encode(text)
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Any]) -> tuple[int, ...]:
        """The ids that the server gives the engine for these messages."""
        return self.encode(self.render(messages, tools, prompt=True))

    def turns(self, conversation: Conversation) -> Iterator[Turn]:
        """Every assistant turn of ``conversation`` in order, without those that no user message precedes.

        Raises:
            TemplateError: the template refuses the chat, does not write an answer directly after its own
                generation prompt, or does not end it with the end token.
        """
        arguments = self._arguments(conversation.messages, conversation.tools)
        asked = False
        for at, message in enumerate(conversation.messages):
            asked |= message["role"] == "user"
            if message["role"] != "assistant" or not asked:
                continue
            try:
                prompt = self._write(arguments, at, prompt=True)
                whole = self._write(arguments, at + 1, prompt=False)
            except Exception as error:  # the base's template is a foreign program, and may raise anything
                raise TemplateError(
                    f"Line {conversation.line}, messages[{at}]: the base's chat template refuses this chat: "
                    f"{str(error) or type(error).__name__}."
                ) from error
            if not whole.startswith(prompt):
                raise TemplateError(
                    f"Line {conversation.line}, messages[{at}]: the chat template does not put the answer "
                    "directly after its generation prompt, so prompt and answer cannot be separated."
                )
            # NOTE: prompt and target are tokenised separately. In one text, a BPE merge across the boundary would
            # give ids that the server never produces (lattice#1545, AReaL#1427).
            target = self._target(whole[len(prompt) :], conversation, at)
            yield Turn(conversation.messages[:at], message, self.encode(prompt), target)

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
        written = text.unmarked if isinstance(text, MarkedText) else text
        if written.count(self.end_token) > 1:
            raise TemplateError(
                f"Line {conversation.line}, messages[{at}]: the answer itself contains {self.end_token!r}, which "
                "would be trained as text that does not end the answer. Remove it from the data."
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


def shared_lengths(ordered: Sequence[Sample]) -> list[int]:
    """For each sample, sorted by its ids, how many first tokens it shares with the one before it.

    Only tokens are shared after which another one follows that is not trained, in both samples.
    """
    found = [0] * len(ordered)
    for at in range(1, len(ordered)):
        one, other = ordered[at - 1], ordered[at]
        same = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one.ids, other.ids, strict=False))
        )
        most = min(_first_trained(one), _first_trained(other), len(other.ids)) - 1
        found[at] = max(0, min(same, most))
    return found


def _first_trained(sample: Sample) -> int:
    return next((at for at, label in enumerate(sample.labels) if label != IGNORED), len(sample.labels))

"""From files to samples: the training samples, the held-out chats, and warnings about the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoTokenizer

from adapters.training.config import TrainingConfig
from adapters.training.data.augment import augment
from adapters.training.data.chat_template import Conversation, Renderer, Sample, fold
from adapters.training.data.mixing import FileShare, replayed, weighted
from adapters.training.data.preferences.pairs import PreferencePair, read_preferences
from adapters.training.data.prepared import PreparedData
from adapters.training.data.quality import calls_survive, count_control_tokens
from adapters.training.data.reader import check_usable, first_question, read_lines, split_held_out
from adapters.training.errors import BaseModelError, DataError, TemplateError


def load_renderer(config: TrainingConfig) -> Renderer:
    """The base's own tokenizer and chat template.

    Raises:
        BaseModelError: the folder has no tokenizer or no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.base, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{config.base.name} has no readable tokenizer. Give the folder of the model that the server serves."
        ) from error
    if not tokenizer.chat_template:
        raise BaseModelError(
            f"{config.base.name} lacks a chat template. Give the folder of the model that the server serves."
        )
    return Renderer(tokenizer, config.end_token, config.template_kwargs)


@dataclass(slots=True)
class _Encoded:
    """Samples of some chats, and the counts of what they lack."""

    samples: list[Sample] = field(default_factory=list)
    dropped: int = 0  # turns that are too long
    unread: int = 0  # turns whose calls the server does not read back
    refused: list[TemplateError] = field(default_factory=list)  # chats that the template does not take


def prepare(config: TrainingConfig, renderer: Renderer) -> PreparedData:
    """Read, split, rephrase, mix and encode the data.

    Raises:
        DataError: a line cannot be used, or nothing is left to train on.
        TemplateError: the base's template does not allow an exact mask.
    """
    if config.preferences is not None:
        return _prepare_preferences(config, renderer)
    return _prepare_chats(config, renderer)


def _prepare_chats(config: TrainingConfig, renderer: Renderer) -> PreparedData:
    unusable: list[str] = []
    sources, held_out = _read_sources(config, unusable)
    rephrased = [augment(chats, config.seed) if config.augment else chats for chats in sources]
    encoded = [_encode(chats, renderer, config, unusable) for chats in rephrased]
    weights = config.data_weights or (1.0,) * len(sources)
    mixed = [weighted(e.samples, w, config.seed) for e, w in zip(encoded, weights, strict=True)]
    own = [sample for samples in mixed for sample in samples]
    if not own:
        raise DataError(
            f"{config.data_names}: no turn is left to train on; {sum(e.dropped for e in encoded)} turns are longer "
            f"than max_length_tokens {config.max_length_tokens}. Raise the limit, or shorten the chats."
        )
    held_out = _renderable(held_out, renderer, config, unusable)
    general, available = _select_replay(config, renderer, held_out, len(own), unusable)
    chats = [chat for source in sources for chat in source]
    return PreparedData(
        samples=own + general,
        held_out=held_out,
        chats=len(chats),
        dropped_turns=sum(e.dropped for e in encoded),
        control_token_messages=count_control_tokens(
            [*chats, *held_out], renderer.tokenizer.all_special_tokens
        ),
        replayed_samples=len(general),
        replay_available=available,
        unread_call_turns=sum(e.unread for e in encoded),
        rephrased_chats=_changed(rephrased, sources),
        unusable=unusable,
        files=[
            FileShare(path, weight, len(source), len(samples))
            for path, weight, source, samples in zip(config.data, weights, sources, mixed, strict=True)
        ],
    )


def _prepare_preferences(config: TrainingConfig, renderer: Renderer) -> PreparedData:
    """Pairs of answers; ``samples`` are both sides, and of open turns the longest that the worse one can be."""
    unusable: list[str] = []
    encoded = read_preferences(config, renderer, unusable)
    found = encoded.preferences
    sides = [sample for pair in found.pairs for sample in pair.samples()]
    for turn in found.open:
        longest = (renderer.end_id,) * config.max_new_tokens
        sides += PreferencePair(turn.prompt, turn.target, longest).samples()
    return PreparedData(
        samples=sides,
        held_out=encoded.held_out_chats,
        chats=found.rows,
        dropped_turns=0,
        control_token_messages=0,
        unusable=unusable,
        preferences=found,
    )


def _changed(new: Sequence[Sequence[Conversation]], old: Sequence[Sequence[Conversation]]) -> int:
    pairs = zip(
        (chat for chats in new for chat in chats), (chat for chats in old for chat in chats), strict=True
    )
    return sum(one is not other for one, other in pairs)


def train_and_held_out(config: TrainingConfig) -> tuple[list[Conversation], list[Conversation]]:
    """The chats to train on and the held-out chats.

    Raises:
        DataError: a line cannot be used.
    """
    sources, held_out = _read_sources(config, [])
    return [chat for source in sources for chat in source], held_out


def _read_sources(
    config: TrainingConfig, unusable: list[str]
) -> tuple[list[list[Conversation]], list[Conversation]]:
    """The chats of each data file, without the held-out ones, and those."""
    sources = [read_usable(path, config, unusable) for path in config.data]
    if config.held_out is not None:
        return sources, read_usable(config.held_out, config, unusable)
    split = [split_held_out(chats, config.held_out_share) for chats in sources]
    return [train for train, _ in split], [chat for _, held_out in split for chat in held_out]


def read_usable(path: Path, config: TrainingConfig, unusable: list[str]) -> list[Conversation]:
    """The chats of a file; lines that cannot be used are refused, or with ``skip_unusable`` appended to ``unusable``.

    Raises:
        DataError: a line cannot be used, or none can.
    """
    lines = read_lines(path)
    errors = [line for line in lines if isinstance(line, DataError)]
    if not config.skip_unusable or len(errors) == len(lines):
        check_usable(path, errors)
    unusable += [f"{path.name}: {error}" for error in errors]
    return [line for line in lines if isinstance(line, Conversation)]


def _encode(
    chats: Sequence[Conversation], renderer: Renderer, config: TrainingConfig, unusable: list[str]
) -> _Encoded:
    """The chats as samples; chats that the template refuses are an error, or appended to ``unusable``."""
    found = _Encoded()
    for chat in chats:
        try:
            turns = list(renderer.turns(chat))
        except TemplateError as error:
            found.refused.append(error)
            continue
        folded, left_out = fold(turns, config.max_length_tokens)
        found.samples += folded
        found.dropped += left_out
        found.unread += sum(
            bool(t.answer.get("tool_calls")) and not calls_survive(t, renderer) for t in turns
        )
    if found.refused and (not config.skip_unusable or len(found.refused) == len(chats)):
        raise found.refused[0]
    unusable += [str(error) for error in found.refused]
    return found


def _renderable(
    chats: Sequence[Conversation], renderer: Renderer, config: TrainingConfig, unusable: list[str]
) -> list[Conversation]:
    """The chats that the template takes."""
    found = []
    for chat in chats:
        try:
            list(renderer.turns(chat))
        except TemplateError as error:
            if not config.skip_unusable:
                raise
            unusable.append(f"held out: {error}")
        else:
            found.append(chat)
    return found


def _select_replay(
    config: TrainingConfig,
    renderer: Renderer,
    held_out: Sequence[Conversation],
    own: int,
    unusable: list[str],
) -> tuple[list[Sample], int]:
    """General samples that make up ``replay_ratio`` of the mix, and the number of different ones.

    A general chat with the first question of a held-out chat is left out. If there are too few, they are repeated.
    """
    wanted = round(own * config.replay_ratio / (1 - config.replay_ratio))
    if config.replay is None or not wanted:
        return [], 0
    questions = {first_question(chat) for chat in held_out}
    chats = [c for c in read_usable(config.replay, config, unusable) if first_question(c) not in questions]
    samples = _encode(chats, renderer, config, unusable).samples
    if not samples:
        raise DataError(
            f"{config.replay.name}: no turn to replay is left within --max-length-tokens {config.max_length_tokens}. "
            "Raise the limit."
        )
    return replayed(samples, wanted, config.seed), len(samples)

"""The check of a file of better and worse answers: what a training of pairs would read, and what is wrong with it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from adapters.training.check.dataset_validation import validate_faults, validate_format
from adapters.training.check.facts import facts_of
from adapters.training.check.findings import CheckReport, Finding, Level, finding_factory
from adapters.training.check.scan import DatasetScan
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer
from adapters.training.data.files import parse_row, raw_rows
from adapters.training.data.preferences.pairs import PreferencePair, last_only, last_turn, match_rows
from adapters.training.data.preferences.rows import (
    PreferenceRow,
    answer_of,
    is_preference_row,
    parse_preference,
    prompt_of,
)
from adapters.training.data.quality import FEW_CHATS
from adapters.training.data.reader import first_question, share_of
from adapters.training.errors import DataError, TemplateError

FEW_HELD_OUT = 20
_LOOKED_AT = 200  # first rows that decide what a file is
_BIASED, _LEAST_PAIRS = 0.75, 20
_SECTIONS = ("data", "pairs", "format", "calls", "texts", "evaluation")


class _Encoded(NamedTuple):
    """A matched row with the ids of its pair."""

    row: PreferenceRow
    pair: PreferencePair


def holds_preferences(path: Path) -> bool:
    """Whether a file is for ``--preferences``: of its first rows, most are marked and at least one is worse.

    Raises:
        DataError: the file is missing, of another kind, or damaged.
    """
    rows: list[Any] = []
    for line, raw in islice(raw_rows(path), _LOOKED_AT):
        with suppress(DataError):
            rows.append(parse_row(raw, line))
    worse = [is_preference_row(row) for row in rows]
    marked = [one or (isinstance(row, dict) and "label" in row) for one, row in zip(worse, rows, strict=True)]
    return any(worse) and 2 * sum(marked) >= len(rows)


def check_preferences(
    config: TrainingConfig, renderer: Renderer, progress: Callable[[int], None] = lambda rows: None
) -> CheckReport:
    """Check ``config.preferences``. ``progress`` gets the number of rows read so far.

    Raises:
        DataError: the file is missing, empty, of another kind, or damaged. Rows that cannot be used are findings.
    """
    if config.preferences is None:
        raise ValueError("There is no file of preferences.")
    started = time.perf_counter()
    scan, rows = DatasetScan(), []
    for line, raw in raw_rows(config.preferences):
        found = parse_preference(raw, line)
        if isinstance(found, DataError):
            scan.broken.append(str(found))
        else:
            rows.append(found)
        progress(len(rows) + len(scan.broken))
    matched = match_rows(rows)
    encoded = _encode(matched, scan, config, renderer)
    figures: dict[str, Any] = {}
    findings = [
        *_validate_rows(scan, rows, matched, figures),
        *_validate_pairs(encoded, config, figures),
        *validate_format(scan, figures),
        *validate_faults(scan, figures),
        *_validate_held_out(encoded, config, figures),
    ]
    figures["rows_per_s"] = round((len(rows) + len(scan.broken)) / (time.perf_counter() - started))
    ordered = [finding for section in _SECTIONS for finding in findings if finding.section == section]
    examples = [sample for one in encoded[:2] for sample in one.pair.samples()]
    return CheckReport(ordered, figures, examples)


def _encode(
    rows: Sequence[PreferenceRow], scan: DatasetScan, config: TrainingConfig, renderer: Renderer
) -> list[_Encoded]:
    """The pairs; the facts of the better answers go to ``scan``."""
    found = []
    for row in rows:
        if row.chosen is None:
            continue
        scan.chats.append(facts_of(last_only(row.chosen), 0, renderer, config.max_length_tokens))
        if row.rejected is None:
            continue
        try:
            better, worse = last_turn(row.chosen, renderer), last_turn(row.rejected, renderer)
        except TemplateError as error:
            scan.chats[-1].template_error = str(error)
            continue
        found.append(_Encoded(row, PreferencePair(better.prompt, better.target, worse.target)))
    return found


def _validate_rows(
    scan: DatasetScan,
    rows: Sequence[PreferenceRow],
    matched: Sequence[PreferenceRow],
    figures: dict[str, Any],
) -> Iterator[Finding]:
    """Rows that are read, and what they become."""
    finding = finding_factory("data")
    pairs = sum(bool(row.chosen and row.rejected) for row in matched)
    alone = sum(row.rejected is None for row in matched)
    worse = [f"line {row.line}" for row in matched if row.chosen is None]
    figures |= {"rows": len(rows), "broken_lines": len(scan.broken), "pairs": pairs, "without_worse": alone}
    figures["only_worse"] = len(worse)
    yield finding(not scan.broken, f"{len(rows)} rows read, {len(scan.broken)} unusable", scan.broken)
    yield finding(
        pairs + alone >= FEW_CHATS,
        f"{pairs} pairs of a better and a worse answer"
        + ("" if pairs + alone >= FEW_CHATS else "; fewer than 100 move an adapter little"),
        worst=Level.WARN,
    )
    if alone:
        yield finding(
            True,
            f"{alone} better answers have no worse one; the model that the training starts from gives it",
        )
    yield finding(
        not worse,
        f"{len(worse)} worse answers have no better one and are left out",
        worse,
        worst=Level.WARN,
    )


def _validate_pairs(
    encoded: Sequence[_Encoded], config: TrainingConfig, figures: dict[str, Any]
) -> Iterator[Finding]:
    """What is wrong between the answers: repetitions, contradictions, lengths."""
    finding = finding_factory("pairs")
    if not encoded:
        return
    seen: dict[tuple[str, str, str], int] = {}
    repeated, contradicting = [], []
    for row, _ in encoded:
        if row.chosen is None or row.rejected is None:
            continue
        prompt, better, worse = prompt_of(row.chosen), answer_of(row.chosen), answer_of(row.rejected)
        if (prompt, better, worse) in seen:
            repeated.append(f"line {row.line} is line {seen[prompt, better, worse]} again")
        if (prompt, worse, better) in seen:
            contradicting.append(f"line {row.line} prefers what line {seen[prompt, worse, better]} rejects")
        seen.setdefault((prompt, better, worse), row.line)
    figures |= {"repeated_pairs": len(repeated), "contradicting_pairs": len(contradicting)}
    yield finding(
        not repeated, f"{len(repeated)} pairs are in the file more than once", repeated, worst=Level.WARN
    )
    yield finding(
        not contradicting,
        f"{len(contradicting)} pairs contradict another pair of the same prompt",
        contradicting,
    )
    limit = config.max_length_tokens
    too_long = [
        f"line {row.line}" for row, pair in encoded if max(len(s.ids) for s in pair.samples()) > limit
    ]
    figures["pairs_too_long"] = len(too_long)
    yield finding(
        not too_long,
        f"{len(too_long)} pairs are longer than --max-length-tokens {limit} and are left out",
        too_long,
        worst=Level.WARN,
    )
    yield _validate_lengths([pair for _, pair in encoded], figures)


def _validate_lengths(pairs: Sequence[PreferencePair], figures: dict[str, Any]) -> Finding:
    """Whether the better answer can be told by its length alone."""
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs)
    shorter = sum(len(pair.chosen) < len(pair.rejected) for pair in pairs) / len(pairs)
    ratio = statistics.median(len(pair.chosen) / len(pair.rejected) for pair in pairs)
    figures |= {"chosen_longer": round(longer, 4), "chosen_shorter": round(shorter, 4)}
    figures["length_ratio"] = round(ratio, 3)
    share, word = max((longer, "longer"), (shorter, "shorter"))
    biased = len(pairs) >= _LEAST_PAIRS and share > _BIASED and not 0.8 < ratio < 1.25
    text = (
        f"the better answer is the {word} one in {share:.0%} of the pairs (median length ratio {ratio:.2f})"
    )
    if biased:
        text += f": the adapter learns to answer {word}. Add pairs in which the other length is better"
    return finding_factory("pairs")(not biased, text, worst=Level.WARN)


def _validate_held_out(
    encoded: Sequence[_Encoded], config: TrainingConfig, figures: dict[str, Any]
) -> Iterator[Finding]:
    """The size of the held-out set."""
    share = config.held_out_share
    held_out = sum(share_of(first_question(row.chosen)) < share for row, _ in encoded if row.chosen)
    figures["held_out_pairs"] = held_out
    yield finding_factory("evaluation")(
        held_out >= FEW_HELD_OUT,
        f"{held_out} pairs are held out"
        + ("" if held_out >= FEW_HELD_OUT else "; with fewer than 20 the shares are rough"),
        worst=Level.WARN,
    )

"""The check report for people: findings by section, and samples with their trained tokens coloured."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.text import Text

from adapters.training.check.findings import CheckReport, Level
from adapters.training.data.chat_template import IGNORED, Renderer, Sample

_MARKS = {Level.OK: ("ok  ", "green"), Level.WARN: ("warn", "yellow"), Level.FAIL: ("FAIL", "bold red")}
_SHOWN_CHARACTERS = 1500


def show(report: CheckReport, renderer: Renderer, console: Console) -> None:
    """Print ``report``."""
    for section, findings in groupby(report.findings, key=lambda f: f.section):
        console.print(Text(section, style="bold"))
        for finding in findings:
            mark, style = _MARKS[finding.level]
            console.print(Text.assemble("  ", (mark, style), "  ", finding.text.replace("\n", "\n        ")))
    console.print(Text(f"{report.figures['rows_per_s']:,} rows/s", style="dim"))
    console.print(Text("samples", style="bold"))
    console.print(Text.assemble("  trained tokens are ", _legend(console)))
    for number, sample in enumerate(report.examples, start=1):
        console.print(Text(f"  {number}. {len(sample.ids)} tokens, {sample.trained_tokens} trained"))
        console.print(coloured(sample, renderer, plain=not console.is_terminal))


def coloured(sample: Sample, renderer: Renderer, *, plain: bool) -> Text:
    """The sample's text with green trained tokens; ``plain`` puts them between ⟦ and ⟧ instead."""
    text = Text()
    pairs = zip(sample.ids, sample.labels, strict=True)
    for trained, run in groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        words = renderer.tokenizer.decode([token for token, _ in run])
        if trained and plain:
            words = f"⟦{words}⟧"
        text.append(words, style="bold green" if trained else "dim")
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS].append(" …", style="dim")
    return text


def _legend(console: Console) -> Text:
    return Text("green", style="bold green") if console.is_terminal else Text("between ⟦ and ⟧")

"""The model card: ``README.md`` beside the adapter, made from ``training.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEANING = {
    "loss": "loss per trained token",
    "perplexity": "perplexity",
    "exact": "exact answers",
    "tool_calls": "right tool calls",
    "json_valid": "valid JSON where JSON was wanted",
    "stops": "stopped by itself",
    "repeats": "ended in a loop",
}
_CHOICES = ("rank", "alpha", "rslora", "targets", "learning_rate", "epochs", "batch_samples", "dtype", "seed")


def model_card(record: Mapping[str, Any], *, name: str, base: str) -> str:
    """Markdown with the front matter that model hubs read."""
    parts = [
        f"---\nbase_model: {base}\nlibrary_name: peft\ntags: [lora, loragate]\n---\n",
        f"# {name}\n\nA LoRA adapter for {base}, made by `loragate train` in {record['steps']} steps. Numbers and "
        "digests of data, base and template stand in `training.json`.\n",
        *_scores(record),
        _data(record),
        _settings(record["hyperparameters"]),
        _serving(record),
    ]
    return "\n".join(parts)


def _scores(record: Mapping[str, Any]) -> list[str]:
    found = []
    if record["scores"]:
        found.append(_table("Held-out chats", record["scores"]))
    if record["general"]:
        forgotten = record["general"]["forgotten"]
        found.append(
            _table("General chats", record["general"])
            + f"\nForgotten (exact answers of the base less those of the adapter): {forgotten:.1%}.\n"
        )
    verdict = record["judge"]
    if verdict and "error" not in verdict:
        found.append(
            f"## Judged\n\n{verdict['model']} against {verdict['against']}, in both orders: "
            f"{verdict['wins']} wins, {verdict['ties']} ties, {verdict['losses']} losses.\n"
        )
    return found


def _table(title: str, scores: Mapping[str, Any]) -> str:
    base, adapter = scores["base"], scores["adapter"]
    rows = [
        f"| {meaning} | {shown(key, base.get(key))} | {shown(key, adapter.get(key))} |"
        for key, meaning in MEANING.items()
        if adapter.get(key) is not None
    ]
    turns = f" ({adapter['turns']} turns)" if "turns" in adapter else ""
    return "\n".join([f"## {title}{turns}\n", "| | base | adapter |", "|---|---|---|", *rows, ""])


def shown(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if key in ("loss", "perplexity") else f"{value:.1%}"


def _data(record: Mapping[str, Any]) -> str:
    counts = record["data"]
    lines = [f"- {name.replace('_', ' ')}: {value}" for name, value in counts.items()]
    return "\n".join(["## Data\n", *lines, ""])


def _settings(chosen: Mapping[str, Any]) -> str:
    shown = {key: chosen[key] for key in _CHOICES if key in chosen}
    lines = [
        f"- {key.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}"
        for key, value in shown.items()
    ]
    return "\n".join(["## Settings\n", *lines, ""])


def _serving(record: Mapping[str, Any]) -> str:
    return (
        "## Serving\n\n```sh\nloragate adapter add TENANT NAME THIS_FOLDER\n```\n\n"
        f"Turns end with `{record['end_token']}`; the base's own chat template must be used.\n"
    )

"""The model card: ``README.md`` beside the adapter, made only from ``training.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Metrics of ``scores`` and their labels for people.
METRICS = {
    "loss": "loss per trained token",
    "perplexity": "perplexity",
    "exact": "exact answers",
    "tool_calls": "correct tool calls",
    "json_valid": "valid JSON where JSON is expected",
    "stops": "ended with the end token",
    "repeats": "ended in a repeated pattern",
    "preference_loss": "loss of the pairs (DPO)",
    "preferred": "better answer more probable per token",
    "won": "better answer gained more than the worse one",
    "margin": "margin of the gains",
}
_NUMBERS = ("loss", "perplexity", "preference_loss", "margin")
_CHOICES = (
    "rank", "alpha", "rslora", "targets", "beta", "learning_rate", "batch_samples", "dtype", "seed",
)  # fmt: skip

_RUN = ("steps", "epochs", "kept_step", "final_loss", "total_s")


def model_card(record: Mapping[str, Any], *, name: str, base: str) -> str:
    """Markdown with the front matter that model hubs read."""
    chosen = record["hyperparameters"]
    parts = [
        f"---\nbase_model: {base}\nlibrary_name: peft\ntags: [lora, loragate]\n---\n",
        f"# {name}\n\nA LoRA adapter for {base}, made by `loragate train` in {record['steps']} steps"
        f"{_origin(record)}"
        f"{_epochs(record)}{_kept(record)}. "
        "`training.json` has all figures and the digests of data, base and template.\n",
        *_scores(record),
        _list("Data", record["data"]),
        _list("Training", {name: record[name] for name in _RUN if record.get(name) is not None}),
        _list("Settings", {key: chosen[key] for key in _CHOICES if key in chosen}),
        _serving(record),
    ]
    return "\n".join(parts)


def _origin(record: Mapping[str, Any]) -> str:
    """How it was made, where that is not a training of chats."""
    beta = record["hyperparameters"].get("beta")
    start = record.get("start_from")
    pairs = (
        f" from {record['data']['pairs']} pairs of answers (DPO, beta {beta:g})" if beta is not None else ""
    )
    return pairs + (f", starting from the adapter {start}" if start else "")


def _epochs(record: Mapping[str, Any]) -> str:
    return f" ({record['epochs']:g} epochs)" if record.get("epochs") is not None else ""


def _kept(record: Mapping[str, Any]) -> str:
    kept = record.get("kept_step", record["steps"])
    return "" if kept == record["steps"] else f"; its weights are those of step {kept}, the best evaluation"


def _scores(record: Mapping[str, Any]) -> list[str]:
    found = []
    if record["scores"]:
        found.append(_table("Held-out chats", record["scores"]))
    if record["general"]:
        forgotten = record["general"]["forgotten"]
        told = (
            ""
            if forgotten is None
            else f"\nForgotten (exact answers of the base minus those of the adapter): {forgotten:.1%}.\n"
        )
        found.append(_table("General chats", record["general"]) + told)
    if record.get("pairs"):
        found.append(_table("Held-out pairs of answers", record["pairs"]))
    verdict = record["judge"]
    if verdict and "error" not in verdict:
        found.append(
            f"## Pairwise evaluation\n\n{verdict['model']} against {verdict['against']}, in both orders: "
            f"{verdict['wins']} wins, {verdict['ties']} ties, {verdict['losses']} losses.\n"
        )
    return found


def _table(title: str, scores: Mapping[str, Any]) -> str:
    base, adapter = scores["base"], scores["adapter"]
    rows = [
        f"| {label} | {format_metric(key, base.get(key))} | {format_metric(key, adapter.get(key))} |"
        for key, label in METRICS.items()
        if adapter.get(key) is not None
    ]
    turns = f" ({adapter['turns']} turns)" if "turns" in adapter else ""
    return "\n".join([f"## {title}{turns}\n", "| | base | adapter |", "|---|---|---|", *rows, ""])


def format_metric(key: str, value: float | None) -> str:
    """A metric for people: losses as numbers, shares as percentages, a dash for None."""
    if value is None:
        return "–"
    return f"{value:.4f}" if key in _NUMBERS else f"{value:.1%}"


def _list(title: str, values: Mapping[str, Any]) -> str:
    lines = [f"- {name.replace('_', ' ')}: {_shown(value)}" for name, value in values.items()]
    return "\n".join([f"## {title}\n", *lines, ""])


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(v["name"]) if isinstance(v, dict) else str(v) for v in value)
    return str(value)


def _serving(record: Mapping[str, Any]) -> str:
    return (
        "## Serving\n\n```sh\nloragate adapter add TENANT NAME THIS_FOLDER\n```\n\n"
        f"Turns end with `{record['end_token']}`; serve it with the base's own chat template.\n"
    )

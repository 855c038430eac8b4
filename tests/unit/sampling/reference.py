"""Defines the decoding options as plain functions on one row of logits.

The engine is tested against this definition, which works on one float64 row.
`probabilities` applies them in the order of vLLM 0.32 (`vllm.v1.sample.sampler.Sampler`): allowed tokens, bad
words, logit bias, repetition, frequency, presence; then greedy, or temperature, min_p, top_k, top_p. Its
newer runner (`vllm.v1.worker.gpu.sample`) bans words after the penalties, with the same distribution.

Shapes: V is the vocabulary size; `logits` and probabilities are float64 [V], counts are int [V].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]
CountRow = NDArray[np.int64]

_GREEDY_BELOW = 1e-5  # vllm.v1.sample.sampler._SAMPLING_EPS


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each token occurs in the prompt and in the answer so far, int [V] each."""

    prompt: CountRow
    answer: CountRow


@dataclass(frozen=True, slots=True)
class Decoding:
    """The options that shape the distribution, with vLLM's names and neutral defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: Collection[int] | None = None
    banned_token_ids: Collection[int] = ()
    """Tokens that would complete one of the `bad_words`, or end the answer before `min_tokens`."""


def softmax(logits: Row, temperature: float = 1.0) -> Row:
    """p_i = exp(z_i / T) / Σ_j exp(z_j / T).

    Ackley, Hinton & Sejnowski 1985, "A Learning Algorithm for Boltzmann Machines". A logit of -inf gives 0.

    Raises:
        ValueError: T is not above 0; greedy is the limit T → 0, see `greedy`.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}: use greedy() for 0")
    scaled = logits / temperature
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def greedy(logits: Row) -> Row:
    """Probability 1 for the largest logit; among equal ones for the lowest id."""
    probabilities = np.zeros_like(logits)
    probabilities[int(np.argmax(logits))] = 1.0
    return probabilities


def top_p(probabilities: Row, p: float) -> Row:
    """The nucleus: the smallest set of most likely tokens with Σ p_i ≥ p, renormalised.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", §3.1. A token is in it when the
    more likely tokens sum to less than p, so it is never empty. vLLM sums from the least likely token in
    float32 (`apply_top_k_top_p_pytorch`), so rounding decides about one token when a sum equals p.
    """
    if p >= 1.0:
        return probabilities
    order = np.argsort(-probabilities, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(probabilities[order])[:-1]])
    return _keep(probabilities, order[before < p])


def top_k(probabilities: Row, k: int) -> Row:
    """The k most likely tokens, renormalised; 0, -1 and values of at least V keep all.

    Fan, Lewis & Dauphin 2018, "Hierarchical Neural Story Generation", §5.2. Tokens as likely as the k-th
    are kept, as in vLLM, which uses a threshold.
    """
    if k <= 0 or k >= probabilities.size:
        return probabilities
    threshold = np.sort(probabilities)[-k]
    return _keep(probabilities, np.flatnonzero(probabilities >= threshold))


def min_p(probabilities: Row, share: float) -> Row:
    """The tokens with p_i ≥ share · max_j p_j, renormalised.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling"; `MinPLogitsProcessor`.
    """
    if share <= 0.0:
        return probabilities
    return _keep(probabilities, np.flatnonzero(probabilities >= share * probabilities.max()))


def repetition_penalty(logits: Row, counts: Counts, penalty: float) -> Row:
    """z_i / θ if z_i > 0 else z_i · θ, for tokens in prompt or answer.

    Keskar et al. 2019, "CTRL", §4.1, with the form for negative logits that is common today;
    `vllm._custom_ops.apply_repetition_penalties_torch`.
    """
    seen = (counts.prompt > 0) | (counts.answer > 0)
    penalised = np.where(logits > 0, logits / penalty, logits * penalty)
    return np.where(seen, penalised, logits)


def frequency_penalty(logits: Row, counts: Counts, penalty: float) -> Row:
    """z_i - c_i · α, where c_i is the count in the answer; the prompt does not count. OpenAI's definition."""
    return logits - penalty * counts.answer


def presence_penalty(logits: Row, counts: Counts, penalty: float) -> Row:
    """z_i - α if the token occurs in the answer; the prompt does not count. OpenAI's definition."""
    return logits - penalty * (counts.answer > 0)


def logit_bias(logits: Row, bias: Mapping[int, float]) -> Row:
    """z_i + b_i. OpenAI's definition."""
    biased = logits.copy()
    for token_id, amount in bias.items():
        biased[token_id] += amount
    return biased


def allow_only(logits: Row, token_ids: Collection[int]) -> Row:
    """-inf for every other token."""
    allowed = np.isin(np.arange(logits.size), list(token_ids))
    return np.where(allowed, logits, -np.inf)


def ban(logits: Row, token_ids: Collection[int]) -> Row:
    """-inf for these tokens."""
    banned = logits.copy()
    banned[list(token_ids)] = -np.inf
    return banned


def probabilities(logits: Row, counts: Counts, params: Decoding) -> Row:
    """The distribution of the next token, float64 [V], with vLLM's order of application."""
    shaped = logits.astype(np.float64)
    if params.allowed_token_ids is not None:
        shaped = allow_only(shaped, params.allowed_token_ids)
    shaped = ban(shaped, params.banned_token_ids)
    shaped = logit_bias(shaped, params.logit_bias)
    shaped = repetition_penalty(shaped, counts, params.repetition_penalty)
    shaped = frequency_penalty(shaped, counts, params.frequency_penalty)
    shaped = presence_penalty(shaped, counts, params.presence_penalty)
    if params.temperature < _GREEDY_BELOW:
        return greedy(shaped)
    drawn = min_p(softmax(shaped, params.temperature), params.min_p)
    return top_p(top_k(drawn, params.top_k), params.top_p)


def _keep(probabilities: Row, indices: NDArray[np.intp]) -> Row:
    kept = np.zeros_like(probabilities)
    kept[indices] = probabilities[indices]
    return np.asarray(kept / kept.sum())

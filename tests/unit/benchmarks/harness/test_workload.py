"""The same seed gives the same requests, and invalid options are reported by name."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.workload import (
    Arrivals,
    Lengths,
    Popularity,
    WordCost,
    Workload,
    parse_arrivals,
    parse_lengths,
    parse_popularity,
    parse_shares,
)

WORKLOAD = Workload(
    tenants={"acme": 8, "globex": 2},
    models={"acme": [f"acme-{n}" for n in range(10)], "globex": ["globex-tools"]},
    popularity=Popularity(1.1),
    prompt_tokens=Lengths("lognormal", 128),
    output_tokens=Lengths("fixed", 32),
    word_cost=WordCost(tokens_per_word=1.5, template_tokens=20),
    seed=7,
)


def first(workload: Workload, number: int) -> list:
    return list(itertools.islice(workload.requests(), number))


def test_a_seed_determines_every_request() -> None:
    assert first(WORKLOAD, 50) == first(replace(WORKLOAD), 50)
    assert first(WORKLOAD, 50)[33] == WORKLOAD.request(33)


def test_another_seed_gives_other_requests() -> None:
    assert first(WORKLOAD, 20) != first(replace(WORKLOAD, seed=8), 20)


def test_no_two_prompts_have_the_same_start() -> None:
    """Otherwise a prefix cache would make the server faster than it is."""
    starts = Counter(" ".join(request.prompt.split()[:8]) for request in first(WORKLOAD, 500))
    assert starts.most_common(1)[0][1] == 1


def test_shares_of_tenants_and_popularity_of_adapters() -> None:
    seen = first(WORKLOAD, 4000)
    tenants = Counter(request.tenant for request in seen)
    assert tenants["acme"] / 4000 == pytest.approx(0.8, abs=0.03)
    models = Counter(request.model for request in seen if request.tenant == "acme")
    assert models["acme-0"] / models["acme-1"] == pytest.approx(2**1.1, rel=0.2)
    assert [models[f"acme-{n}"] for n in (0, 1, 4, 9)] == sorted(
        (models[f"acme-{n}"] for n in (0, 1, 4, 9)), reverse=True
    )
    assert {request.model for request in seen if request.tenant == "globex"} == {"globex-tools"}


def test_uniform_popularity_calls_all_models_equally() -> None:
    models = Counter(r.model for r in first(replace(WORKLOAD, popularity=Popularity()), 4000))
    acme = [count for name, count in models.items() if name.startswith("acme")]
    assert max(acme) / min(acme) < 1.5


def test_prompts_have_the_number_of_words_for_their_tokens() -> None:
    fixed = replace(WORKLOAD, prompt_tokens=Lengths("fixed", 170))
    assert {len(request.prompt.split()) for request in first(fixed, 5)} == {100}


def test_lognormal_lengths_have_their_mean_and_a_maximum() -> None:
    lengths = [len(request.prompt.split()) * 1.5 + 20 for request in first(WORKLOAD, 4000)]
    assert statistics.mean(lengths) == pytest.approx(128, rel=0.05)
    assert max(lengths) <= 8 * 128 + 1


def test_poisson_arrivals_have_their_rate_and_follow_the_seed() -> None:
    arrivals = Arrivals("poisson", 4)
    times = list(itertools.islice(arrivals.times_s(1), 4000))
    assert times == list(itertools.islice(arrivals.times_s(1), 4000))
    assert times == sorted(times)
    assert 4000 / times[-1] == pytest.approx(4, rel=0.06)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.1), "exponential: as wide as its mean"


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(itertools.islice(Arrivals("constant", 4).times_s(0), 3)) == [0.25, 0.5, 0.75]


def test_options_are_parsed() -> None:
    assert parse_arrivals("poisson:0.5") == Arrivals("poisson", 0.5)
    assert parse_arrivals("clients:32").clients == 32
    assert parse_arrivals("constant:3").clients is None
    assert parse_lengths("128", "--x") == parse_lengths("fixed:128", "--x") == Lengths("fixed", 128)
    assert parse_lengths("lognormal:256", "--x") == Lengths("lognormal", 256)
    assert parse_shares("acme:8,globex") == {"acme": 8.0, "globex": 1.0}
    assert parse_popularity("zipf:1.1") == Popularity(1.1)
    assert parse_popularity("uniform") == Popularity()
    assert parse_popularity("acme-support,globex-tools") == ("acme-support", "globex-tools")


@pytest.mark.parametrize(
    "text", ["poisson", "poisson:x", "poisson:0", "gamma:3", "clients:1.5", "poisson:nan"]
)
def test_invalid_arrivals_are_named(text: str) -> None:
    with pytest.raises(InvalidOption, match="--arrivals"):
        parse_arrivals(text)


@pytest.mark.parametrize("text", ["", "0", "fixed:-1", "zipf:3", "lognormal:"])
def test_invalid_lengths_name_their_flag(text: str) -> None:
    with pytest.raises(InvalidOption, match="--prompt-tokens"):
        parse_lengths(text, "--prompt-tokens")


@pytest.mark.parametrize("text", ["", "acme:0", "acme:x", ":3"])
def test_invalid_shares_are_named(text: str) -> None:
    with pytest.raises(InvalidOption, match="--tenants"):
        parse_shares(text)


@pytest.mark.parametrize("text", ["", "zipf:", "zipf:x", "power:2"])
def test_invalid_popularity_is_named(text: str) -> None:
    with pytest.raises(InvalidOption, match="--adapters"):
        parse_popularity(text)

"""The command line of `python -m benchmarks serving`."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.models import Role
from benchmarks.__main__ import main
from benchmarks.harness import environment
from benchmarks.harness.demo_server import DEMO_KEYS, OPERATOR_KEY
from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.workload import Arrivals, Lengths, Popularity, Workload
from benchmarks.serving.options import parse, parse_keys, parse_sweep
from benchmarks.serving.sweep import first_adapters
from server.app.demo_seed import DEMO_KEYS as SEEDED_KEYS

ISSUE = (
    "--url http://h:1 --tenants acme:8,globex:2 --adapters zipf:1.1 --arrivals poisson:4 "
    "--prompt-tokens lognormal:256 --output-tokens 128 --duration 60"
)


def test_the_command_of_the_documentation_is_parsed() -> None:
    options = parse(ISSUE.split(), "")
    assert options.tenants == {"acme": 8, "globex": 2}
    assert options.adapters == Popularity(1.1)
    assert options.arrivals == Arrivals("poisson", 4)
    assert options.prompt_tokens == Lengths("lognormal", 256)
    assert options.output_tokens == Lengths("fixed", 128)
    assert (options.length.seconds, options.length.requests, options.url) == (60, None, "http://h:1")
    assert options.keys == DEMO_KEYS


def test_the_default_keys_are_those_of_the_demo() -> None:
    for tenant, key in DEMO_KEYS.items():
        assert SEEDED_KEYS[key] == (tenant, Role.INFERENCE)
    assert SEEDED_KEYS[OPERATOR_KEY] == (None, Role.OPERATOR)


def test_keys_are_not_in_the_report() -> None:
    options = parse(["--keys", "acme=hush", "--out", "x.json"], "")
    assert options.keys == {"acme": "hush"}
    assert "hush" not in str(options.flags)
    assert options.flags["out"] == "x.json"


def test_lengths_are_exact_unless_answers_may_end_early() -> None:
    assert parse([], "").request["extra_body"] == {"ignore_eos": True}
    assert parse(["--stop-at-eos"], "").request["extra_body"] == {}


@pytest.mark.parametrize("text", ["acme", "acme=", "=key"])
def test_invalid_keys(text: str) -> None:
    with pytest.raises(InvalidOption, match="--keys"):
        parse_keys(text)


def test_url_excludes_a_peer_with_the_model_of_the_demo() -> None:
    with pytest.raises(InvalidOption, match="--peer-url"):
        parse(["--url", "http://h:1", "--peer", "vllm"], "")


def test_a_sweep() -> None:
    assert parse_sweep("clients=1,4,16") == ("clients", (1, 4, 16))
    for wrong in ("clients", "clients=", "clients=0", "tenants=1", "clients=a"):
        with pytest.raises(InvalidOption, match="--sweep"):
            parse_sweep(wrong)


def test_a_sweep_over_adapters_takes_the_most_popular_of_each_tenant() -> None:
    any_length = Lengths("fixed", 1)
    workload = Workload(
        {"acme": 8, "globex": 2},
        {"acme": ["a0", "a1", "a2"], "globex": ["g0"]},
        Popularity(),
        any_length,
        any_length,
    )
    one, three = first_adapters(workload, 1), first_adapters(workload, 3)
    assert (one.models, one.tenants) == ({"acme": ["a0"]}, {"acme": 8})
    assert three.models == {"acme": ["a0", "a1"], "globex": ["g0"]}


def test_an_invalid_option_ends_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serving", "--arrivals", "sometimes"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "serving: --arrivals sometimes: use poisson:RATE, constant:RATE or clients:N.\n"
    assert captured.out == ""


def test_the_error_without_matplotlib_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(environment.MatplotlibMissing):
        environment.check_matplotlib()
    assert main(["serving", "--plots", str(tmp_path)]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err

"""How long a 404 takes does not tell whether the name is somebody's."""

from __future__ import annotations

import random
import statistics
import time

import httpx
import pytest

pytestmark = pytest.mark.alone  # it measures times

#: globex's own, and one that nobody has.
FOREIGN, MISSING = "globex-tools", "globex-tolls"
ASK = {"messages": [{"role": "user", "content": "Hello!"}]}


def test_the_time_of_a_404_tells_nothing(http: httpx.Client) -> None:
    """Pairs in random order. Were one kind slower, it would lose nearly all of its pairs.

    With equal times the share of pairs in which the foreign name is slower has a standard deviation of
    0.5 / sqrt(200) = 0.035; the bounds lie seven of them away, so that noise does not fail this test, and a
    difference of one database look-up (a few hundred microseconds of about two milliseconds) does.
    """
    took_s: dict[str, list[float]] = {FOREIGN: [], MISSING: []}
    for name in (FOREIGN, MISSING) * 5:
        http.post("/v1/chat/completions", json=ASK | {"model": name})  # warm caches and the connection
    for _ in range(200):
        for name in random.sample([FOREIGN, MISSING], 2):
            began = time.perf_counter()
            http.post("/v1/chat/completions", json=ASK | {"model": name})
            took_s[name].append(time.perf_counter() - began)
    pairs = list(zip(took_s[FOREIGN], took_s[MISSING], strict=True))
    slower = sum(foreign > missing for foreign, missing in pairs) / len(pairs)
    medians = {name: statistics.median(times) for name, times in took_s.items()}
    print(f"foreign slower in {slower:.2f} of {len(pairs)} pairs; medians {medians}")
    assert 0.25 < slower < 0.75
    assert abs(medians[FOREIGN] - medians[MISSING]) < 0.25 * max(medians.values())

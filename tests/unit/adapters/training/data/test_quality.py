"""Near-duplicate texts are found, and others are not."""

from __future__ import annotations

from adapters.training.data.quality import NearDuplicates, fingerprint


def test_near_duplicates_are_found_and_other_texts_are_not() -> None:
    known = NearDuplicates(0.8)
    words = [f"w{i}" for i in range(40)]
    assert known.add(fingerprint(" ".join(words))) is None
    assert known.find(fingerprint(" ".join([*words[:-1], "other"]))) == 0
    assert known.find(fingerprint(" ".join(words[:20] + ["x"] * 20))) is None
    assert known.find(fingerprint("w1")) is None

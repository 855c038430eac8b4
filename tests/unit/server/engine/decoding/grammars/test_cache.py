"""Who fills the cache loses what is his own, and nothing that is in use."""

from __future__ import annotations

from server.engine.decoding.grammars.cache import OwnedCache


def test_the_owner_with_the_most_bytes_loses_what_he_used_longest_ago() -> None:
    dropped: list[str] = []
    cache: OwnedCache[str] = OwnedCache(10, on_drop=dropped.append)
    cache.put("small", "a", "small's", 3)
    for number in range(3):
        cache.put("big", str(number), f"big's {number}", 3)
    assert dropped == ["big's 0"] and cache.bytes == 9
    assert cache.get("big", "1") == "big's 1"  # used now: the other one is next
    cache.put("big", "3", "big's 3", 3)
    assert dropped == ["big's 0", "big's 2"]
    assert cache.get("small", "a") == "small's" and cache.get("big", "0") is None


def test_a_key_belongs_to_one_owner() -> None:
    cache: OwnedCache[str] = OwnedCache(10)
    cache.put("acme", "a", "acme's", 1)
    assert cache.get("globex", "a") is None


def test_a_value_in_use_stays_until_its_last_user_has_ended() -> None:
    cache: OwnedCache[str] = OwnedCache(4)
    for _ in range(2):
        cache.pin("acme", "a")
    cache.put("acme", "a", "in use", 5)
    cache.unpin("acme", "a")
    assert cache.get("acme", "a") == "in use"
    cache.unpin("acme", "a")
    assert cache.get("acme", "a") is None and cache.bytes == 0


def test_a_value_is_kept_once() -> None:
    cache: OwnedCache[str] = OwnedCache(10)
    for value in ("first", "second"):
        cache.put("acme", "a", value, 3)
    assert cache.get("acme", "a") == "first" and cache.bytes == 3

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from napari_histolatent.slides import ByteCache


def block(n: int, value: int = 0) -> np.ndarray:
    return np.full(n, value, np.uint8)


def held(cache: ByteCache, keys: str) -> str:
    """Return which keys are held, without counting that as a use."""
    return "".join(key for key in keys if key in cache._items)


def test_what_was_put_comes_back_itself() -> None:
    cache = ByteCache(100)
    array = block(10)
    cache.put("a", array)
    assert cache.get("a") is array
    assert cache.get("b") is None
    assert (cache.used_bytes, cache.cap_bytes) == (10, 100)


def test_bytes_are_counted_and_not_items() -> None:
    cache = ByteCache(100)
    cache.put("a", np.zeros((3, 2), np.float64))
    assert cache.used_bytes == 48


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = ByteCache(30)
    for key in "abc":
        cache.put(key, block(10))
    cache.get("a")
    cache.put("d", block(10))
    assert held(cache, "abcd") == "acd"
    cache.put("e", block(20))
    assert held(cache, "abcde") == "de"
    assert cache.used_bytes == 30


def test_a_cap_may_be_met_exactly() -> None:
    cache = ByteCache(30)
    cache.put("a", block(30))
    assert held(cache, "a") == "a"
    cache.put("b", block(1))
    assert held(cache, "ab") == "b"


def test_one_larger_than_the_cap_is_not_held_and_drives_nothing_out() -> None:
    cache = ByteCache(30)
    cache.put("a", block(10))
    cache.put("b", block(31))
    assert held(cache, "ab") == "a"
    assert cache.used_bytes == 10


def test_one_larger_than_the_cap_takes_the_older_one_of_its_name_away() -> None:
    cache = ByteCache(30)
    cache.put("a", block(10))
    cache.put("a", block(31))
    assert cache.get("a") is None
    assert cache.used_bytes == 0


def test_the_newer_of_one_name_is_held_and_counted_once() -> None:
    cache = ByteCache(30)
    cache.put("a", block(10, 1))
    cache.put("b", block(10))
    cache.put("a", block(20, 2))
    assert held(cache, "ab") == "ab"
    assert cache.used_bytes == 30
    found = cache.get("a")
    assert found is not None
    assert (found == 2).all()


def test_arrays_without_bytes_do_no_harm() -> None:
    cache = ByteCache(0)
    cache.put("a", block(0))
    cache.put("b", block(1))
    assert held(cache, "ab") == "a"
    assert cache.used_bytes == 0


def test_a_smaller_cap_takes_effect_at_once() -> None:
    cache = ByteCache(30)
    for key in "abc":
        cache.put(key, block(10))
    cache.set_cap(19)
    assert held(cache, "abc") == "c"
    assert (cache.used_bytes, cache.cap_bytes) == (10, 19)
    cache.set_cap(40)
    cache.put("d", block(30))
    assert held(cache, "abcd") == "cd"


def test_what_matches_is_dropped() -> None:
    cache = ByteCache(100)
    for slide in "xy":
        for tile in range(3):
            cache.put((slide, tile), block(10))
    cache.drop_where(lambda key: key[0] == "x")
    assert [cache.get(("x", tile)) for tile in range(3)] == [None] * 3
    assert all(cache.get(("y", tile)) is not None for tile in range(3))
    assert cache.used_bytes == 30
    cache.clear()
    assert cache.used_bytes == 0
    assert cache.get(("y", 0)) is None


def test_a_failing_question_leaves_the_cache_whole() -> None:
    cache = ByteCache(100)
    cache.put("a", block(10))
    with pytest.raises(ZeroDivisionError):
        cache.drop_where(lambda _: 1 / 0 > 0)
    # The lock is free again.
    assert cache.get("a") is not None
    assert cache.used_bytes == 10


def test_threads_never_get_another_array_nor_pass_the_cap() -> None:
    cache = ByteCache(5_000)
    too_much: list[int] = []

    def work(worker: int) -> None:
        rng = np.random.default_rng(worker)
        for turn in range(3_000):
            key = int(rng.integers(0, 50))
            found = cache.get(key)
            if found is not None:
                assert len(found) == 100 + key
                assert (found == key).all()
            else:
                cache.put(key, block(100 + key, key))
            if turn % 97 == 0:
                cache.drop_where(lambda k, key=key: k % 10 == key % 10)
            if turn % 501 == 0:
                cache.set_cap(int(rng.integers(1_000, 5_001)))
            if cache.used_bytes > 5_000:
                too_much.append(cache.used_bytes)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, i) for i in range(8)]:
            done.result()
    assert not too_much
    assert cache.used_bytes == sum(v.nbytes for v in cache._items.values())
    assert cache.used_bytes <= cache.cap_bytes

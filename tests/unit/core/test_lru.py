"""L1's memory: what goes first, and that its bytes are those that Python really takes."""

import tracemalloc

from recommendation_service.core.lru import LruBytes


def test_what_was_used_longest_ago_goes_first() -> None:
    memory = LruBytes(1)
    memory.limit_bytes = 3 * _size_of(b"value")
    for key in (1, 2, 3):
        assert memory.put(key, b"value", 10.0) == 0
    assert memory.get(1, 0.0) == b"value"

    assert memory.put(4, b"value", 10.0) == 1

    assert [key for key in (1, 2, 3, 4) if memory.get(key, 0.0)] == [1, 3, 4]


def test_an_entry_is_gone_at_its_time() -> None:
    memory = LruBytes(1 << 20)
    memory.put(1, b"value", 10.0)

    assert memory.get(1, 9.9) == b"value"
    assert memory.get(1, 10.0) is None
    assert (len(memory), memory.bytes) == (0, 0)


def test_a_large_entry_sends_several_away_and_one_above_the_limit_is_not_kept() -> None:
    memory = LruBytes(4 * _size_of(b"value"))
    for key in range(4):
        memory.put(key, b"value", 10.0)

    assert memory.put(9, b"v" * (_size_of(b"value") + 100), 10.0) > 1
    assert memory.put(10, b"v" * memory.limit_bytes, 10.0) == 0

    assert memory.get(10, 0.0) is None
    assert memory.get(9, 0.0) is not None
    assert memory.bytes <= memory.limit_bytes


def test_replacing_and_removing_give_the_bytes_back() -> None:
    memory = LruBytes(1 << 20)
    memory.put(1, b"a long value", 10.0)
    memory.put(1, b"value", 10.0)
    assert memory.bytes == _size_of(b"value")
    memory.remove(1)
    memory.remove(1)
    assert memory.bytes == 0
    memory.put(2, b"value", 10.0)
    memory.clear()
    assert (len(memory), memory.bytes) == (0, 0)


def test_the_process_takes_no_more_than_the_limit() -> None:
    limit = 4 << 20
    for size in (0, 40, 900, 9000):
        tracemalloc.start()
        try:
            memory = LruBytes(limit)
            entries = min(39_000, 3 * limit // (size + 100))  # more than there is room for
            for key in range(1000, 1000 + entries):
                memory.put(key, bytes(size), key + 0.5)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert 0.9 * limit < memory.bytes <= limit
        assert taken <= limit, f"{taken / limit:.2f} of the limit with entries of {size} bytes"


def _size_of(value: bytes) -> int:
    memory = LruBytes(1 << 20)
    memory.put(1, value, 10.0)
    return memory.bytes

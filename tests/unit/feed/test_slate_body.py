"""The part of an answer that machine code joins is, byte for byte, what a JSON library would write."""

import json

import msgspec
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recommendation_service.ranking.slate_body import join_items, join_named_items

START = 8
EVERY_NUMBER = st.integers(-(2**63), 2**63 - 1)


def joined(numbers: list[int], items: list[str], room: int = 1 << 14) -> bytes | int:
    """Of items whose JSON are these texts; or the negative of the room that is needed."""
    blobs = [json.dumps(item, ensure_ascii=False).encode() for item in items]
    offsets = np.cumsum([0, *map(len, blobs)], dtype=np.int64)
    offsets.flags.writeable = False
    blob = np.asarray(memoryview(b"".join(blobs)))
    body = np.full(room, 255, np.uint8)
    rows = np.arange(len(items), dtype=np.int32)
    end = join_items(blob, offsets, rows, np.array(numbers, np.int64), START, body)
    if end < 0:
        assert (body == 255).all()
        return end
    assert (body[:START] == 255).all()
    return body[START:end].tobytes()


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.tuples(EVERY_NUMBER, st.text(max_size=50)), max_size=30))
@example([(-(2**63), ""), (2**63 - 1, "é"), (0, "0"), (10, "x"), (9, "y"), (-1, "z"), (10**18, "")])
def test_numbers_and_items_are_joined(feed: list[tuple[int, str]]) -> None:
    numbers, items = [number for number, _ in feed], [item for _, item in feed]
    text = joined(numbers, items)
    assert isinstance(text, bytes)
    ids = ",".join(f'"{number}"' for number in numbers)
    bodies = ",".join(json.dumps(item, ensure_ascii=False) for item in items)
    assert text.decode() == f'{ids}],"items":[{bodies}'


def test_without_room_nothing_is_written_and_what_is_needed_suffices() -> None:
    numbers, items = [2**63 - 1, 1], ["a" * 300, "b"]
    needed = joined(numbers, items, room=64)
    assert isinstance(needed, int)
    assert joined(numbers, items, room=-needed) == joined(numbers, items)
    assert joined(numbers, items, room=-needed - 1) == needed


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=40) | EVERY_NUMBER, st.text(max_size=20)), max_size=30))
@example([('a"b\\', 'c"\\"d,}', "x"), ("t", 12, '"'), ("t", "", ""), ("t", "\\", "é")])
def test_ids_are_joined_as_items_have_them(feed: list[tuple[str, str | int, str]]) -> None:
    items = [msgspec.json.encode({"type": kind, "id": one, "title": title}) for kind, one, title in feed]
    items += [msgspec.json.encode({"type": kind, "id": one}) for kind, one, _ in feed]
    offsets = np.cumsum([0, *map(len, items)], dtype=np.int64)
    offsets.flags.writeable = False
    blob, rows = np.asarray(memoryview(b"".join(items))), np.arange(len(items), dtype=np.int32)
    needed = -join_named_items(blob, offsets, rows, START, np.zeros(1, np.uint8))
    body = np.full(needed, 255, np.uint8)
    end = join_named_items(blob, offsets, rows, START, body)
    assert (body[:START] == 255).all()
    ids = [one for _, one, _ in feed] * 2
    assert json.loads(b'{"ids":[' + body[START:end].tobytes() + b"]}") == {
        "ids": ids,
        "items": [json.loads(item) for item in items],
    }

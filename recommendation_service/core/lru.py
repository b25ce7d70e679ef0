"""A worker's own memory of what it read, bounded in bytes."""

import sys
from collections import OrderedDict

# Beside an entry's bytes: key, time, tuple and the places in the dictionary (measured, rounded up).
ENTRY_OVERHEAD_BYTES = 320


class LruBytes:
    """Entries of one worker: bounded in bytes, what was used longest ago goes first, and each until its time."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._entries: OrderedDict[int, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: int, now: float) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry[1]:
            self.remove(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: int, value: bytes, until: float) -> int:
        """How many others had to go for it."""
        self.remove(key)
        size = _size(value)
        if size > self.limit_bytes:
            return 0
        evicted = 0
        while self.bytes + size > self.limit_bytes:
            _, (gone, _) = self._entries.popitem(last=False)
            self.bytes -= _size(gone)
            evicted += 1
        self._entries[key] = value, until
        self.bytes += size
        return evicted

    def remove(self, key: int) -> None:
        if entry := self._entries.pop(key, None):
            self.bytes -= _size(entry[0])

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0


def _size(value: bytes) -> int:
    return sys.getsizeof(value) + ENTRY_OVERHEAD_BYTES

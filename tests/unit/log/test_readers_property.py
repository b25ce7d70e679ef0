"""Appends, readings, settlements, kills in any order: nobody loses a record, and by its own marks none comes twice."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from recommendation_service.log.marks import FLUSH, Mark, mark_path
from recommendation_service.log.reader import Batch, LogReader
from recommendation_service.log.records import FeedbackRecord, StreamedRecord, encode
from recommendation_service.log.retention import remove_passed
from recommendation_service.log.segments import SUFFIX, SegmentFull, SegmentWriter

SEGMENT_BYTES = 600  # some records
WORKERS = 2
NO_BOUND = 1 << 40


class Consumer:
    """A reader with its results, which like its mark survive it. ``keeps_mark``: with the results, in one step."""

    def __init__(self, folder: Path, name: str, *, keeps_mark: bool) -> None:
        self._folder, self._name, self._keeps_mark = folder, name, keeps_mark
        self._mark: Mark | None = None
        self.results: list[str] = []
        self.batch: Batch | None = None
        self.reader = LogReader(folder, name)

    def read(self, most: int) -> int:
        """What was read before and not done with comes with it: the mark covers both."""
        before = self.batch.stretches if self.batch else []
        batch = self.reader.read(most, NO_BOUND)
        assert batch.missed is None
        self.batch = batch._replace(stretches=before + batch.stretches)
        return len(batch.stretches)

    def do(self) -> None:
        """The results of what was read, durably."""
        if self.batch is not None:
            for stretch in self.batch.stretches:
                self.results += [record.event_id for record in stretch.records if isinstance(record, FeedbackRecord)]
            self._mark = self.batch.mark
            self.batch = self.batch._replace(stretches=[])

    def settle(self) -> None:
        self.do()
        if self.batch is not None:
            self.reader.settle(self.batch.mark)

    def kill(self) -> None:
        self.reader.close()
        self.batch = None
        self.reader = LogReader(self._folder, self._name, self._mark if self._keeps_mark else None)

    def finish(self) -> None:
        while self.read(1_000):
            self.settle()
        self.settle()


class ManyReaders(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # A kill leaves what the system was given; only that is at stake here, and a sync takes milliseconds.
        self.unsynced = mock.patch("os.fsync")
        self.unsynced.start()
        self.folder = Path(tempfile.mkdtemp(prefix="readers-"))
        self.appended: list[str] = []
        self.segments = 0
        self.writers = [self.new_segment() for _ in range(WORKERS)]

    def new_segment(self) -> SegmentWriter:
        self.segments += 1
        return SegmentWriter(self.folder / f"{self.segments:05d}-1{SUFFIX}", SEGMENT_BYTES)

    @initialize()
    def register(self) -> None:
        self.flush = Consumer(self.folder, FLUSH, keeps_mark=False)
        self.exact = Consumer(self.folder, "exact", keeps_mark=True)
        self.plain = Consumer(self.folder, "plain", keeps_mark=False)
        self.consumers = (self.flush, self.exact, self.plain)

    @rule(worker=st.integers(0, WORKERS - 1), count=st.integers(1, 4), streamed=st.booleans())
    def append(self, worker: int, count: int, streamed: bool) -> None:
        names = [f"e-{len(self.appended) + number}" for number in range(count)]
        payloads = [encode(FeedbackRecord(name, "view", 7, 0, 1, 0, 0)) for name in names]
        if streamed:
            payloads.append(encode(StreamedRecord(b"1-0")))
        try:
            self.writers[worker].append(*payloads)
        except SegmentFull:
            self.writers[worker].close()
            self.writers[worker] = self.new_segment()
            self.writers[worker].append(*payloads)
        self.appended += names

    @rule(worker=st.integers(0, WORKERS - 1))
    def kill_worker(self, worker: int) -> None:
        self.writers[worker].close()
        self.writers[worker] = self.new_segment()

    @rule(which=st.integers(0, 2), most=st.integers(1, 6))
    def read(self, which: int, most: int) -> None:
        self.consumers[which].read(most)

    @rule(which=st.integers(0, 2))
    def settle(self, which: int) -> None:
        self.consumers[which].settle()

    @rule(which=st.integers(0, 2), after_the_results=st.booleans())
    def kill_reader(self, which: int, after_the_results: bool) -> None:
        if after_the_results:
            self.consumers[which].do()
        self.consumers[which].kill()

    @rule()
    def remove(self) -> None:
        remove_passed(self.folder, self.flush.reader.settled.places, NO_BOUND)

    @rule(cut=st.integers(0, 40))
    def lose_the_mark_of_flush(self, cut: int) -> None:
        path = mark_path(self.folder, FLUSH)
        if path.exists():
            path.write_bytes(path.read_bytes()[:cut])
            self.flush.kill()

    def teardown(self) -> None:
        try:
            for writer in self.writers:
                writer.close()
            if not hasattr(self, "consumers"):
                return
            for consumer in self.consumers:
                consumer.finish()
            assert sorted(self.exact.results) == sorted(self.appended)
            for consumer in (self.flush, self.plain):
                assert set(consumer.results) == set(self.appended)
            self.remove()
            assert list(self.folder.glob(f"*{SUFFIX}")) == []
            for consumer in self.consumers:
                consumer.reader.close()
        finally:
            self.unsynced.stop()
            shutil.rmtree(self.folder)


ManyReaders.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestManyReaders = ManyReaders.TestCase

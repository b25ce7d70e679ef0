"""What `make bench ARGS='--of parts'` takes a sample for."""

import pytest

from benchmarks.parts import LOOP, OTHER, RANKING, part_of

HERE = "/srv/recommendation_service"
LOOPS = [("/lib/python3/asyncio/runners.py", "run", 118, 86), ("/lib/uvicorn/server.py", "run", 70, 60)]
PROTOCOL = (f"{HERE}/server/protocol.py", "data_received", 150, 140)
FEEDS = (f"{HERE}/serving/feeds.py", "feed", 80, 45)


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        ([(f"{HERE}/feed/pipeline.py", "rank", 160, 130), FEEDS, PROTOCOL, *LOOPS], RANKING),
        ([(f"{HERE}/feed/pipeline.py", "_run", 160, 130), FEEDS, PROTOCOL, *LOOPS], RANKING),
        ([(f"{HERE}/feed/pipeline.py", "render", 270, 260), FEEDS, PROTOCOL, *LOOPS], "joining the answer"),
        ([(f"{HERE}/serving/group_commit.py", "_write", 90, 80), *LOOPS], "memory"),
        ([(f"{HERE}/serving/recording.py", "record_of", 9, 5), FEEDS, PROTOCOL, *LOOPS], "record"),
        (
            [("/lib/python3/json/decoder.py", "decode", 9, 5), (f"{HERE}/api/feeds.py", "answer", 9, 5), *LOOPS],
            "request",
        ),
        ([PROTOCOL, *LOOPS], "HTTP"),
        # The loop has waited and read before the first line of whom it calls.
        ([(*PROTOCOL[:2], 140, 140), *LOOPS], LOOP),
        (LOOPS, LOOP),
        ([("/lib/python3/threading.py", "run", 9, 5)], OTHER),
    ],
)
def test_a_sample_counts_for_the_part_that_its_innermost_telling_frame_is_of(
    stack: list[tuple[str, str, int | None, int]], part: str
) -> None:
    assert part_of(stack).startswith(part)

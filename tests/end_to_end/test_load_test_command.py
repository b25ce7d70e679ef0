"""test_load_performance.py: what it reads, counts and says, against servers made to fail."""

from __future__ import annotations

import asyncio
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import test_load_performance as load_test
from tests.end_to_end.service import PATIENCE_SECONDS, REPOSITORY
from tests.servers import LOOPBACK, free_port, wait_until
from tests.support.listening import stop_listening
from tests.support.load_test import COMMAND, FEED, FakeServer, Handler, always, command, http, measure, serving

# Verdicts.


@pytest.mark.parametrize(
    ("rate", "p95", "error_rate", "met"),
    [
        (50.0, 1.0, 0.0, ""),
        (50.1, 9000.0, 0.0, "1"),
        (100.0, 1.0, 0.0, "1"),
        (100.1, 9000.0, 0.0, "1 2"),
        (200.0, 1.0, 0.0, "1 2"),
        (200.1, 149.9, 0.0, "1 2 3"),
        (200.1, 150.0, 0.0, "1 2"),
        (1000.0, 149.9, 0.0, "1 2 3"),
        (1000.1, 149.9, 0.0, "1 2 3 next"),
        (1000.1, 150.0, 0.0, "1 2 next"),
        (1000.1, 149.9, 0.01, "1 2 3 next"),
        (1000.1, 149.9, 0.0101, ""),
        (0.0, None, 0.0, ""),
        (math.inf, None, 0.0, "1 2 next"),
    ],
)
def test_each_phase_is_met_by_the_contracts_figures(
    rate: float, p95: float | None, error_rate: float, met: str
) -> None:
    assert " ".join(p.name for p in load_test.PHASES if p.is_met(rate, p95, error_rate)) == met


@pytest.mark.parametrize(
    ("met", "highest"),
    [("", None), ("1", "1"), ("1 2", "2"), ("1 2 3", "3"), ("1 2 3 next", "next"), ("1 2 next", "2"), ("2 3", None)],
)
def test_the_phase_that_is_satisfied_has_all_before_it_met(met: str, highest: str | None) -> None:
    assert load_test.highest_phase({p.name: p.name in met.split() for p in load_test.PHASES}) == highest


def test_the_requirements_are_said_as_the_contract_says_them() -> None:
    said = [phase.requirement for phase in load_test.PHASES]
    assert said == ["> 50 req/s", "> 100 req/s", "> 200 req/s and P95 < 150 ms", "> 1,000 req/s"]


# Latencies.


def omitted_one_by_one(latencies: Sequence[float], interval: float) -> list[float]:
    samples = list(latencies)
    for latency in latencies:
        rest = latency - interval
        while rest > interval:
            samples.append(rest)
            rest -= interval
    return samples


@pytest.mark.parametrize("interval", [0.25, 0.5, 1.0, 100.0])
def test_omitted_requests_are_added_as_wrk_adds_them(interval: float) -> None:
    # Multiples of 1/8, so that sums are exact.
    latencies = np.random.default_rng(7).integers(1, 80, 500) / 8
    added = load_test.with_omitted(latencies, interval)
    assert sorted(added) == sorted(omitted_one_by_one(latencies.tolist(), interval))


def test_where_nothing_is_expected_nothing_is_added() -> None:
    assert load_test.with_omitted(np.array([1.0, 5.0]), 0.0).tolist() == [1.0, 5.0]
    assert load_test.with_omitted(np.array([]), 1.0).tolist() == []


def test_a_percentile_is_a_latency_that_was_measured() -> None:
    latency = load_test.summary(np.arange(1, 101) / 1000)
    assert latency is not None
    assert (latency.p50, latency.p95, latency.p99, latency.max) == pytest.approx((50, 95, 99, 100))
    assert latency.average == pytest.approx(50.5)
    assert load_test.summary(np.array([])) is None


# What is read.

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
IN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"
WITH_TRAILER = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status"), [(PLAIN, 200), (IN_CHUNKS, 200), (WITH_TRAILER, 503)], ids=["plain", "chunks", "trailer"]
)
def test_an_answer_is_read_once_it_is_whole(data: bytes, status: int) -> None:
    for length in range(1, len(data)):
        assert load_test.read_answer(memoryview(data[:length]), False) is None
        assert load_test.read_answer(memoryview(data[:length]), True) is None
    answer = load_test.read_answer(memoryview(data), False)
    assert answer is not None
    assert (answer.status, bytes(answer.body), answer.closes) == (status, b"hello", False)


def test_an_answer_without_a_length_ends_where_the_server_closes() -> None:
    data = memoryview(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert load_test.read_answer(data, False) is None
    answer = load_test.read_answer(data, True)
    assert answer is not None
    assert (bytes(answer.body), answer.closes) == (b"hello", True)


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01", b"HTTP/1.1 abc\r\n\r\n", PLAIN.replace(b"5", b"x"), b"HTTP/1.1" * 10_000],
)
def test_what_is_no_http_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its message is not shown to anybody
        load_test.read_answer(memoryview(data), False)


@pytest.mark.parametrize("endpoint", ["total", "discover", "flow"])
def test_a_feed_is_told_from_anything_else(endpoint: str) -> None:
    name = {"total": "mix_ids", "discover": "resume_ids", "flow": "challenge_ids"}[endpoint]
    check = load_test.FeedCheck(endpoint, 2)

    def feed(**fields: Any) -> bytes:
        return json.dumps({"statusCode": 200, "body": {name: ["1"], "items": [{}], **fields}}).encode()

    assert check.is_feed(feed())
    assert check.is_feed(feed(**{name: ["1", "2"]}, items=[{}, {}]))
    for wrong in (
        feed(items=[]),
        feed(**{name: []}, items=[]),
        feed(**{name: ["1"] * 3}, items=[{}] * 3),
        feed(**{name: [1]}),
        feed().replace(b"200", b"500"),
        feed().replace(name.encode(), b"other_ids"),
        feed()[:-1],
        b"",
        b"null",
        b"<html>",
        b"\xff",
    ):
        assert not check.is_feed(wrong), wrong


# Servers made to fail.


async def close_without_an_answer(
    server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await server.read(reader)


async def close_within_the_answer(
    server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await server.read(reader)
    writer.write(http(200, FEED)[:-1])


async def never_answer(server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await server.read(reader)


async def listen_no_more(server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """After its first answer, to what asks whether there is a service."""
    await server.read(reader)
    assert server.listener is not None
    await stop_listening(server.listener)
    writer.write(http(200, FEED))


FAULTS: dict[str, tuple[Handler, str]] = {
    "answers 500": (always(http(500, b"{}")), "status 500"),
    "answers 503": (always(http(503, b"{}")), "status 503"),
    "closes": (close_without_an_answer, "closed"),
    "closes within the answer": (close_within_the_answer, "closed"),
    "stalls": (never_answer, "timeout"),
    "listens no more": (listen_no_more, "connect"),
    "sends no feed": (always(http(200, b"{}")), "wrong_body"),
    "sends no HTTP": (always(b"SSH-2.0\r\n\r\n"), "wrong_body"),
}
BRIEFLY = ("--warm-up", "0", "--duration", "0.6", "--concurrency", "4")
SLOWLY = 0.01  # seconds: the generator waits for answers, and has nothing to say of itself, however slow the machine
IMPATIENT = ("--timeout", "0.3")  # where no answer comes; elsewhere a busy machine must not make it a fault of its own


@pytest.mark.parametrize("loop", ["closed", "open"])
@pytest.mark.parametrize(("handler", "kind"), FAULTS.values(), ids=FAULTS)
def test_errors_are_counted_by_kind(handler: Handler, kind: str, loop: str) -> None:
    with serving(handler) as server:
        impatient = IMPATIENT if kind == "timeout" else ()
        figures = measure(server.address, *BRIEFLY, *impatient, *(["--rate", "50"] if loop == "open" else []))
    errors = figures["errors"]
    counted = {**errors, **{f"status {status}": count for status, count in errors["status"].items()}}
    assert figures["requests"] > 0
    assert counted[kind] == errors["total"] == figures["requests"]
    assert figures["error_rate"] == 1
    assert figures["requests_per_second"] == 0
    assert figures["phase_satisfied"] is None
    if loop == "open":
        assert figures["requests"] == 30  # each that was due, whatever became of those before it


def test_a_refusing_server_is_not_asked_as_fast_as_it_refuses() -> None:
    with serving(listen_no_more) as server:
        figures = measure(server.address, *BRIEFLY)
    assert figures["errors"]["connect"] <= 4 * 10


def test_right_answers_count_beside_wrong_ones() -> None:
    async def every_third(server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.read(reader)
            writer.write(http(200, FEED) if server.requests % 3 else http(500, b"{}"))

    with serving(every_third) as server:
        figures = measure(server.address, "--rate", "200", "--duration", "3", "--warm-up", "0")
    assert figures["requests"] == 600
    assert figures["errors"]["status"] == {"500": pytest.approx(200, abs=1)}
    assert figures["error_rate"] == pytest.approx(1 / 3, abs=0.01)
    assert figures["latency_ms"]["max"] > 0


def test_answers_in_chunks_and_in_pieces_are_right_answers() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(FEED), FEED)

    async def in_pieces(server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.read(reader)
            for at in range(0, len(chunked), 40):
                writer.write(chunked[at : at + 40])
                await asyncio.sleep(0)

    with serving(in_pieces) as server:
        figures = measure(server.address, *BRIEFLY)
    assert figures["errors"]["total"] == 0
    assert figures["requests"] > 20


# Coordinated omission.


def stands_still_once(after_requests: int) -> Handler:
    """For a second, with all of its connections."""
    resume_at = 0.0

    async def handler(server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal resume_at
        loop = asyncio.get_running_loop()
        while True:
            await server.read(reader)
            if server.requests == after_requests:
                resume_at = loop.time() + 1
            await asyncio.sleep(max(0.0, resume_at - loop.time()))
            writer.write(http(200, FEED))

    return handler


def test_an_open_loop_shows_a_standstill_to_all_who_would_have_asked_meanwhile() -> None:
    with serving(stands_still_once(150)) as server:
        figures = measure(server.address, "--rate", "100", "-c", "2", "--duration", "4", "--warm-up", "0")
    # A quarter of the requests was due in that second, and waited half of it on average.
    assert figures["requests"] == 400
    assert figures["errors"]["total"] == 0
    assert figures["latency_ms"]["max"] >= 950
    assert figures["latency_ms"]["p99"] >= 850
    assert figures["latency_ms"]["p95"] >= 600
    assert figures["uncorrected_latency_ms"] == figures["latency_ms"]


def test_a_closed_loop_shows_it_too_where_a_plain_one_would_not() -> None:
    with serving(stands_still_once(150)) as server:
        figures = measure(server.address, "-c", "2", "--duration", "4", "--warm-up", "0")
    assert figures["requests"] > 1000
    assert figures["uncorrected_latency_ms"]["p99"] < 100
    assert figures["latency_ms"]["p99"] >= 850
    assert figures["latency_ms"]["max"] >= 950


# The command.


def test_json_has_these_fields_and_nothing_else_is_printed() -> None:
    with serving(always(http(200, FEED), SLOWLY)) as server:
        done = command(server.address, *BRIEFLY, "--json", "--phase", "1")
    assert done.stderr == ""
    figures = json.loads(done.stdout)
    number = (int, float)
    latency = {"average": number, "p50": number, "p95": number, "p99": number, "max": number}
    phase = {"phase": str, "requirement": str, "met": bool}
    assert_is_like(
        figures,
        {
            "url": str,
            "loop": str,
            "rate_asked": type(None),
            "concurrency": int,
            "processes": int,
            "keep_alive": bool,
            "duration_seconds": number,
            "warm_up_seconds": number,
            "requests": int,
            "requests_per_second": number,
            "latency_ms": latency,
            "uncorrected_latency_ms": latency,
            "error_rate": number,
            "errors": {"total": int, "connect": int, "timeout": int, "closed": int, "wrong_body": int, "status": {}},
            "generator_busy": number,
            "phases": [phase] * 4,
            "phase_satisfied": str,
            "phase_asked": str,
            "phase_asked_met": bool,
        },
    )
    assert figures["url"] == f"{server.address}/api/search/total"
    assert [phase["phase"] for phase in figures["phases"]] == ["1", "2", "3", "next"]


def assert_is_like(value: Any, like: Any) -> None:
    if isinstance(like, dict):
        assert list(value) == list(like)
        for name in like:
            assert_is_like(value[name], like[name])
    elif isinstance(like, list):
        assert len(value) == len(like)
        for one, other in zip(value, like, strict=True):
            assert_is_like(one, other)
    else:
        assert isinstance(value, like), (value, like)


def test_a_person_reads_figures_errors_and_verdicts() -> None:
    with serving(always(http(500, b"{}"))) as server:
        done = command(server.address, *BRIEFLY)
    for part in ("requests/s", "errors", "100.00%", "status 500", "phase 1", "not met", "> 1,000 req/s", "no phase"):
        assert part in done.stdout
    assert "latency " not in done.stdout
    with serving(always(http(200, FEED), SLOWLY)) as server:
        done = command(server.address, *BRIEFLY)
    for part in ("closed loop of 4 connections", "average", "P50", "P95", "P99", "max", "0.00%", "satisfy phase"):
        assert part in done.stdout
    assert done.stderr == ""


def test_the_request_is_the_contracts() -> None:
    with serving(always(http(200, FEED))) as server:
        measure(server.address, *BRIEFLY, "--api-key", "a-key", "--api-path", "/v2", "--no-keep-alive")
    first, *lines = server.heads[-1].splitlines()
    assert first == "POST /v2/search/total HTTP/1.1"
    assert {"X-API-Key: a-key", "Content-Type: application/json", "Connection: close"} <= set(lines)
    assert f"Host: {LOOPBACK}:{server.port}" in lines


def test_exit_status_1_where_the_phase_asked_for_is_not_met() -> None:
    with serving(always(http(500, b"{}"))) as server:
        asked = command(server.address, *BRIEFLY, "--phase", "1")
        assert asked.returncode == 1, asked.stderr
        assert "Asked for: phase 1, not met." in asked.stdout
        assert command(server.address, *BRIEFLY).returncode == 0
    with serving(always(http(200, FEED))) as server:
        assert command(server.address, *BRIEFLY, "--phase", "1").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--phase", "4"],
        ["--phase", "3", "--rate", "200"],
        ["--endpoint", "other"],
        ["--concurrency", "0"],
        ["--processes", "5", "--concurrency", "4"],
        ["--users", "9-1"],
        ["--users", "no-such-file"],
        ["--size", "101"],
        ["--no-such-option"],
        ["ftp://example.com"],
        ["http://127.0.0.1:5005/api/search/total"],
        ["http://127.0.0.1:99999"],
    ],
    ids=" ".join,
)
def test_exit_status_2_for_wrong_use(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_exit_status_2_and_a_sentence_where_there_is_no_service() -> None:
    address = f"http://{LOOPBACK}:{free_port()}"
    done = command(address, "--phase", "1", "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"{address} cannot be reached: Connection refused. Is the service running there?\n"
    unknown = command("http://no-such-host.invalid:5005")
    assert unknown.returncode == 2
    assert "http://no-such-host.invalid:5005 cannot be reached: " in unknown.stderr
    assert len(unknown.stderr.splitlines()) == 1


@pytest.mark.parametrize(("status", "hint"), [(401, "--api-key"), (404, "--api-path"), (422, "refuses what is asked")])
def test_exit_status_2_where_the_requests_are_wrong(status: int, hint: str) -> None:
    with serving(always(http(status, b'{"error": "for this reason"}'))) as server:
        done = command(server.address, *BRIEFLY)
    assert done.returncode == 2
    assert f"answers {status}" in done.stderr
    assert hint in done.stderr
    assert "for this reason" in done.stderr


def test_users_are_a_range_or_a_file(tmp_path: Path) -> None:
    assert load_test.read_users("3-5") == range(3, 6)
    assert load_test.read_users("7") == range(7, 8)
    file = tmp_path / "users.txt"
    file.write_text("12\n9\n12\n")
    assert list(load_test.read_users(str(file))) == [12, 9, 12]
    file.write_text("12\nnine\n")
    with pytest.raises(typer.BadParameter, match="nine"):
        load_test.read_users(str(file))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_user_is_asked_for_in_turn_by_all_processes(place: int) -> None:
    async def handler(server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(re.findall(r"Content-Length: (\d+)", head)[0])
            server.heads.append((await reader.readexactly(length)).decode())
            writer.write(http(200, FEED))

    with serving(handler) as server:
        measure(
            server.address, *BRIEFLY, "--processes", "2", "--users", "5-14", "--rate", "50", "--size", str(place + 1)
        )
    asked = [json.loads(body) for body in server.heads[1:]]  # the first asks whether there is a service
    assert len(asked) == 30
    assert sorted(body["SELF_ID"] for body in asked) == sorted([*range(5, 15)] * 3)
    assert {body["N_VIDEOS"] for body in asked} == {place + 1}


def test_a_terminal_sees_a_progress_bar_and_standard_output_stays_clean() -> None:
    ours, theirs = pty.openpty()
    with serving(always(http(200, FEED))) as server:
        process = subprocess.Popen(
            [*COMMAND, server.address, *BRIEFLY, "--warm-up", "0.4", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # the terminal's last user has gone
                break
            if not more:
                break
            shown += more
        os.close(ours)
        printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert json.loads(printed)["requests"] > 0
    for part in ("warming up", "measuring", "requests, 0 failed"):
        assert part.encode() in shown


def test_ctrl_c_ends_it_with_all_of_its_processes() -> None:
    with serving(always(http(200, FEED))) as server:
        process = subprocess.Popen(
            # A shell that starts these tests in the background has SIGINT ignored, which a child would inherit.
            ["env", "--default-signal=INT", *COMMAND, server.address, "--duration", "600", "--processes", "2"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert wait_until(lambda: server.requests > 100, PATIENCE_SECONDS)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 130, said
        assert b"Traceback" not in said
        assert wait_until(lambda: not group_exists(process.pid), PATIENCE_SECONDS)


def group_exists(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_help_says_how_coordinated_omission_is_avoided() -> None:
    said = " ".join(command("--help").stdout.split())
    assert "Coordinated omission" in said
    assert "closed loop" in said


def test_a_full_disk_behind_its_output_is_a_sentence() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(REPOSITORY / "test_load_performance.py"), "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "The output cannot be written: No space left on device\n")

"""When a worker lets others accept connections before it goes on."""

from __future__ import annotations

import asyncio
import random
import socket
import time

import pytest
from uvicorn.config import Config

from recommendation_service.server import worker
from recommendation_service.server.stopping import StoppableServer
from recommendation_service.server.worker import CROWD_SECONDS, YIELD_SECONDS, Crowd, Protocol


def test_every_connection_of_a_crowd_that_comes_to_stay_is_one_of_it() -> None:
    crowd = Crowd()
    assert [crowd.grows(connections, 100 + connections / 1000) for connections in range(1, 33)] == [True] * 32


def test_a_crowd_is_seen_again_once_another_has_gone() -> None:
    crowd = Crowd()
    for connections in range(1, 33):
        crowd.grows(connections, 100)
    assert not crowd.grows(20, 100.5)
    later = 100.5 + CROWD_SECONDS
    assert [crowd.grows(connections, later) for connections in range(1, 33)] == [True] * 32


def test_a_connection_for_each_request_makes_no_crowd() -> None:
    """Their number goes up and down: only where it is higher than in all of the last second is anybody waited for."""
    draw, crowd, waits = random.Random(5), Crowd(), 0
    for accepted in range(20_000):  # over 10 s
        waits += crowd.grows(draw.randint(1, 16), accepted / 2000)
    assert 10 <= waits < 100


def test_a_worker_waits_for_others_at_each_connection_of_a_crowd_and_at_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Protocol, "crowd", Crowd())
    monkeypatch.setattr(worker, "CROWD_SECONDS", 60.0)  # however slow this machine is
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = StoppableServer(Config(_nothing, http=Protocol, lifespan="off", log_config=None))
            task = asyncio.create_task(server.serve(sockets=[listener]))
            for crowd in (20, 0):
                opened = [await asyncio.open_connection(*listener.getsockname()) for _ in range(max(1, crowd))]
                while len(server.server_state.connections) < len(opened):
                    await asyncio.sleep(0.01)
                assert waits == [YIELD_SECONDS] * 20
                for _, writer in opened:
                    writer.close()
                    await writer.wait_closed()
                while server.server_state.connections:
                    await asyncio.sleep(0.01)
            server.should_exit = True
            await asyncio.wait_for(task, 20)

    asyncio.run(run())


async def _nothing(scope: object, receive: object, send: object) -> None:
    """An application that nobody asks."""

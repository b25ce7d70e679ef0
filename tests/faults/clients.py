"""Clients that scroll, tell what was done, and do not give up at once: each a thread with a connection of its own."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.faults.ledger import FEED, FEEDBACK, NOT_WAITED_FOR, Item, Ledger

ENDPOINTS = {"total": "mix_ids", "discover": "resume_ids", "flow": "challenge_ids"}
ACTIONS = ("view", "view", "like", "save", "match", "rating", "skip")
PAGES_OF_A_USER = 8  # of both tabs together, then the next
TRIES = (1, 3, 8, 8)  # drawn for each thing that is wanted
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0
PATIENCE_SECONDS = (1.5, 5.0, 20.0)
# Some calls are given up at once, as on a bad network: they are done all the same, and then made again.
GIVEN_UP, GIVEN_UP_AFTER_SECONDS = 0.03, 0.005
KEY_SECONDS = 50.0  # an Idempotency-Key is good for a minute


class Response(NamedTuple):
    status: int
    body: bytes


class Lost(Exception):
    """No answer came: it is not known what became of the request."""


class Connection:
    """Kept open from call to call, as browsers do."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: bytes, headers: dict[str, str], timeout_seconds: float) -> Response:
        """Raises Lost, naming how."""
        connection = self._connection or http.client.HTTPConnection(self._host, self._port, timeout=timeout_seconds)
        self._connection = connection
        connection.timeout = timeout_seconds
        if connection.sock is not None:
            connection.sock.settimeout(timeout_seconds)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return Response(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Lost(_name(error)) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class People:
    """Users that two tabs have open at once: both are always at the same one, or nearly."""

    def __init__(self, users: Sequence[int]) -> None:
        self._users = users
        self._pages = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        with self._lock:
            self._pages += 1
            return self._users[self._pages // PAGES_OF_A_USER % len(self._users)]


@dataclass(frozen=True)
class Where:
    host: str
    port: int


class Tab(threading.Thread):
    """One of two tabs of the same people. ``pause_seconds``: between pages, on average."""

    def __init__(
        self, name: str, where: Where, ledger: Ledger, people: People, rng: random.Random, pause_seconds: float
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._connection = Connection(where.host, where.port)
        self._ledger = ledger
        self._people = people
        self._rng = rng
        self._pause_seconds = pause_seconds
        self._stop_asked = threading.Event()
        self._events = 0
        self._keys = 0
        self.error: BaseException | None = None

    def stop(self) -> None:
        """What is under way is finished, with the tries that it has."""
        self._stop_asked.set()

    def run(self) -> None:
        try:
            while not self._stop_asked.wait(self._rng.uniform(0, 2 * self._pause_seconds)):
                self._page(self._people.next())
        except Exception as error:  # noqa: BLE001 - told by whoever joins
            self.error = error
        finally:
            self._connection.close()

    def _page(self, user: int) -> None:
        rng = self._rng
        endpoint = rng.choices(list(ENDPOINTS), weights=(16, 4, 1))[0]
        size = 4 if endpoint == "flow" else rng.choice((12, 24, 24, 24))
        session = f"{self.name}-{user}"
        fields = {"SELF_ID": user, "N_VIDEOS": size, "session_id": session}
        body = self._feed(user, endpoint, fields, is_keyed=rng.random() < 0.5)
        if body is None:
            return
        items: list[Item] = [(item["type"], item["id"]) for item in body["items"]]
        if rng.random() < 0.9:
            self._feedback(user, session, body["request_id"], items)

    def _feed(self, user: int, endpoint: str, fields: dict[str, Any], *, is_keyed: bool) -> dict[str, Any] | None:
        """The body of the page that was shown at last; None where the client gave up."""
        path, content = f"/api/search/{endpoint}", json.dumps(fields).encode()
        key, made = "", 0.0
        for attempt in range(self._rng.choice(TRIES)):
            if is_keyed and (not key or time.monotonic() > made + KEY_SECONDS):
                self._keys += 1
                key, made = f"{self.name}-{self._keys}", time.monotonic()
            headers = {"Idempotency-Key": key} if key else {}
            response = self._call(FEED, path, content, headers, attempt)
            if response is not None and response.status == 200:
                body = self._shown(user, response.body)
                if key and self._rng.random() < 0.4:
                    self._ask_again(user, path, content, headers, made, response.body)
                return body
            if response is not None and response.status != 503:
                return None
        return None

    def _ask_again(
        self, user: int, path: str, content: bytes, headers: dict[str, str], made: float, first: bytes
    ) -> None:
        """As a client does that is not sure: the same key has to give the same bytes."""
        for attempt in range(3):
            response = self._call(FEED, path, content, headers, attempt)
            if time.monotonic() > made + KEY_SECONDS:
                return
            if response is not None and response.status == 200:
                self._ledger.answer_again(headers["Idempotency-Key"], is_same=response.body == first)
                self._shown(user, response.body)
                return

    def _shown(self, user: int, content: bytes) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(content)["body"]
        items = [(item["type"], item["id"]) for item in body["items"]]
        self._ledger.show(user, body["request_id"], items, body["relaxed"])
        return body

    def _feedback(self, user: int, session: str, request_id: str, items: list[Item]) -> None:
        """What the user saw, and did with some of it; until it is acknowledged, or the client gives up."""
        rng = self._rng
        done = [("impression", position) for position in range(len(items))]
        done += [(rng.choice(ACTIONS), rng.randrange(len(items))) for _ in range(2 * len(items))]
        events = []
        for event, position in done:
            self._events += 1
            item_type, item_id = items[position]
            events.append(
                {
                    "event": event,
                    "event_id": f"{self.name}-{self._events}",
                    "user_id": user,
                    "item_type": item_type,
                    "item_id": item_id,
                    "request_id": request_id,
                    "session_id": session,
                    "position": position,
                    **({"value": rng.randint(1, 5)} if event == "rating" else {}),
                }
            )
        content, ids = json.dumps(events).encode(), [str(event["event_id"]) for event in events]
        once_more = rng.random() < 0.1  # as after an answer that was lost
        for attempt in range(rng.choice(TRIES)):
            self._ledger.send(ids)
            response = self._call(FEEDBACK, "/api/feedback", content, {}, attempt)
            if response is not None and response.status == 202:
                self._ledger.acknowledge(ids)
                if not once_more:
                    return
                once_more = False
            elif response is not None and response.status != 503:
                return

    def _call(self, call: str, path: str, content: bytes, headers: dict[str, str], attempt: int) -> Response | None:
        """None: no answer came."""
        if attempt:
            self._ledger.retry(call)
            most = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
            time.sleep(self._rng.uniform(most / 2, most))
        is_given_up = self._rng.random() < GIVEN_UP
        patience_seconds = GIVEN_UP_AFTER_SECONDS if is_given_up else self._rng.choice(PATIENCE_SECONDS)
        try:
            response = self._connection.post(path, content, headers, patience_seconds)
        except Lost as lost:
            self._ledger.note(call, NOT_WAITED_FOR if is_given_up else str(lost))
            return None
        self._ledger.note(call, _outcome(response))
        return response


def _outcome(response: Response) -> str:
    if response.status in {200, 202}:
        return str(response.status)
    try:
        return f"{response.status} {json.loads(response.body)['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status} {response.body[:80]!r}"


def _name(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "connection lost"

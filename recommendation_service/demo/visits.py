"""Simulated people ask a running service for feeds and tell it what they did, as an application does."""

import http.client
import ipaddress
import json
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from recommendation_service.core.service_address import service_address
from recommendation_service.demo.loading import DemoError
from recommendation_service.demo.visitors import APPETITES, Turning, Usual, Visitor
from recommendation_service.demo.vocabulary import vocabulary

TIMEOUT_SECONDS = 30.0
# A service that is busy, or not ready yet, is asked again after what it says, at most so many seconds.
LONGEST_PAUSE_SECONDS = 5.0
ENDPOINTS, SHARES = ("total", "discover", "flow"), (0.6, 0.3, 0.1)
# Rewards of the first so many seconds are what the latest so many are compared with.
COMPARED_SECONDS = 60.0
LARGEST_USER = 200_000  # as the demo numbers its users


class Api:
    """One connection to a service. Raises DemoError, of one sentence."""

    def __init__(self, url: str, prefix: str, key: str | None, *, anywhere: bool) -> None:
        """``anywhere``: it need not be on this machine."""
        try:
            parts = service_address(url if "//" in url else f"http://{url}")
        except ValueError:
            raise DemoError(f"{url} is no address of a service: write http://127.0.0.1:5005.") from None
        host = str(parts.hostname)
        if not anywhere and not is_local(host):
            raise DemoError(
                f"{host} is not this machine. What invented people do would count there as what people do; "
                "--yes-not-local says that this is wanted."
            )
        self.url = f"{parts.scheme}://{parts.netloc}"
        connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = connection(host, parts.port, timeout=TIMEOUT_SECONDS)
        self._prefix = parts.path.rstrip("/") or prefix
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.refused = 0  # answers that said: later

    def ask(self, path: str, body: object, until: float) -> dict[str, Any] | None:
        """The answer's body; None where ``until`` (by the monotonic clock) came first."""
        content = json.dumps(body)
        while time.monotonic() < until:
            status, retry_after, answer = self._call(path, content)
            if status in {200, 202}:
                told: dict[str, Any] = answer["body"]
                return told
            if status not in {429, 503}:
                raise DemoError(f"{self.url} answered {status}: {_said(answer)}")
            self.refused += 1
            time.sleep(max(0.0, min(retry_after, LONGEST_PAUSE_SECONDS, until - time.monotonic())))
        return None

    def _call(self, path: str, content: str) -> tuple[int, float, dict[str, Any]]:
        for attempt in (1, 2):
            try:
                self._connection.request("POST", f"{self._prefix}{path}", content, self._headers)
                answer = self._connection.getresponse()
                found = json.loads(answer.read())
                seconds = answer.getheader("Retry-After") or "1"
                return answer.status, float(seconds) if seconds.isdigit() else 1.0, found
            except (http.client.HTTPException, ConnectionError) as error:
                self._connection.close()
                # A connection that was kept may be closed by the service just then.
                if attempt == 2 or isinstance(error, ConnectionRefusedError):
                    raise DemoError(f"{self.url} does not answer: {error}. Is a service there? `make run`") from None
            except OSError as error:
                self._connection.close()
                raise DemoError(f"{self.url} does not answer: {error}.") from None
            except ValueError:
                self._connection.close()
                raise DemoError(f"What answers at {self.url} is not this service.") from None
        raise AssertionError

    def close(self) -> None:
        self._connection.close()


def is_local(host: str) -> bool:
    """Whether all addresses of a name are loopback ones."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def _said(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("message", error)) if isinstance(error, dict) else "something that is no error of this service"


@dataclass
class Tally:
    """What was sent so far, and what feeds were worth."""

    feeds: int = 0
    events: int = 0
    refused: int = 0
    seconds: float = 0.0
    reward_first: float | None = None  # mean of a feed, of the first minute
    reward_latest: float | None = None  # of the latest minute
    _first: list[float] = field(default_factory=list)
    _latest: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, seconds: float, events: int, reward: float) -> None:
        self.feeds += 1
        self.events += events
        self.seconds = seconds
        if seconds <= COMPARED_SECONDS:
            self._first.append(reward)
        self._latest.append((seconds, reward))
        while self._latest[0][0] < seconds - COMPARED_SECONDS:
            self._latest.popleft()
        self.reward_first = float(np.mean(self._first)) if self._first else None
        self.reward_latest = float(np.mean([one for _, one in self._latest]))

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}


def visit(
    api: Api,
    *,
    users: int,
    rate: float,
    drift_seconds: float,
    seconds: float | None,
    seed: int,
    tally: Tally,
    tell: Callable[[Tally], None],
) -> None:
    """Until ``seconds`` are over (None: until interrupted): ``rate`` feeds a second, each seen by one of ``users``.

    ``tally`` is kept as it goes, and told after each feed. Raises DemoError.
    """
    random = np.random.default_rng(seed)
    fields = len(vocabulary().fields)
    appetite = Turning(random, len(APPETITES), drift_seconds)
    numbers = random.choice(LARGEST_USER, users, replace=False) + 1
    usual = Usual()
    people = [
        Visitor(int(number), Turning(one, fields, drift_seconds), one, usual)
        for number, one in zip(numbers, random.spawn(users), strict=True)
    ]
    began = time.monotonic()
    until = math.inf if seconds is None else began + seconds
    due = began
    while (now := time.monotonic()) < until:
        if due > now:
            time.sleep(min(due - now, until - now))
            continue
        due = max(due + 1 / rate, now)  # what could not be kept up with is not made up for
        person = people[int(random.integers(users))]
        session = f"demo-{seed}-{person.user_id}-{person.visits // 3}"
        body = {"SELF_ID": person.user_id, "session_id": session, "explain": True}
        shown = api.ask(f"/search/{random.choice(ENDPOINTS, p=SHARES)}", body, until)
        if shown is None:
            break
        seen = person.look(shown["items"], appetite.at(now - began), now - began)
        common = {"user_id": person.user_id, "request_id": shown["request_id"], "session_id": session}
        events = [common | event | {"event_id": f"{shown['request_id']}-{n}"} for n, event in enumerate(seen.events)]
        if events and api.ask("/feedback", events, until) is None:
            break
        tally.refused = api.refused
        tally.add(time.monotonic() - began, len(events), seen.reward)
        tell(tally)

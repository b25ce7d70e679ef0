"""Four real workers, and people who scroll on several of them at once: no item twice, and a retry gets the same bytes.

Clients open a connection for each request, so that the kernel chooses the worker. A request that gets no whole answer,
because its worker was killed, is sent again with its Idempotency-Key, as clients should.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import pytest

from recommendation_service.catalog.store import CatalogStore
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo
from tests.servers import LOOPBACK, PrivateRedis

WORKERS = 4
TABS = 3  # of each user, at once
KILLS = 3
LARGEST_PAGE = 16
SEED = 20_261_124

Key = tuple[str, int]  # type, id


@dataclass
class Answer:
    fresh: list[Key]  # what was shown because it had not been
    repeated: list[Key]  # what came back as nothing else was left, which the answer must say
    relaxed: list[str]


@dataclass
class Person:
    """Somebody who scrolls in several tabs."""

    user: int
    answers: list[Answer] = field(default_factory=list)

    @property
    def fresh(self) -> list[Key]:
        return [key for answer in self.answers for key in answer.fresh]


class Clients:
    """Requests on connections of their own."""

    def __init__(self, service: Service) -> None:
        self.port = service.client.base_url.port
        self.lost = 0  # requests without a whole answer

    def post(self, path: str, content: object, key: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=PATIENCE_SECONDS)
        headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
        try:
            connection.request("POST", path, json.dumps(content), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post_until_answered(self, path: str, content: object, key: str) -> bytes:
        while True:
            try:
                status, body = self.post(path, content, key)
            except (OSError, http.client.HTTPException):
                self.lost += 1
                continue
            assert status == 200, body
            return body

    def feed(self, endpoint: str = "total", *, key: str = "", **fields: Any) -> Answer:
        if key:
            return read(self.post_until_answered(f"/api/search/{endpoint}", {"explain": True, **fields}, key))
        status, body = self.post(f"/api/search/{endpoint}", {"explain": True, **fields})
        assert status == 200, body
        return read(body)


def read(body: bytes) -> Answer:
    content = json.loads(body)["body"]
    answer = Answer([], [], content["relaxed"])
    for item in content["items"]:
        came_back = item["why"]["pool"] == "seen"
        (answer.repeated if came_back else answer.fresh).append((item["type"], item["id"]))
    assert bool(answer.repeated) is ("seen" in answer.relaxed)
    return answer


@pytest.fixture(scope="module", params=["alone", "with Redis, which dies and comes back"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("no-repeats")
    load_demo(folder, scale=0.1)
    settings = {"EVENT_FLUSHER": "false"}
    with ExitStack() as stack:
        if request.param != "alone":
            redis = stack.enter_context(PrivateRedis(folder / "redis"))
            settings |= {"REDIS_HOST": LOOPBACK, "REDIS_PORT": str(redis.port), "REDIS_PASSWORD": redis.password}
        service = stack.enter_context(Service.gunicorn(folder, WORKERS, settings))
        wait_for_workers(service)
        if request.param != "alone":
            stack.enter_context(killed_again_and_again(redis))
        yield service


@contextmanager
def killed_again_and_again(redis: PrivateRedis) -> Iterator[None]:
    """Redis dies about every second, and is there again, empty, soon after."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(1.0):
            redis.kill()
            over.wait(0.3)
            redis.start()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE_SECONDS)


@pytest.fixture
def clients(service: Service) -> Clients:
    return Clients(service)


def wait_for_workers(service: Service) -> None:
    service.wait_until_ready()
    service.wait_until(lambda: service.log.count("Application startup complete") >= WORKERS)


@pytest.fixture(scope="module")
def inventory(service: Service) -> set[Key]:
    store = CatalogStore(service.data_dir / "catalogs", keep=1)
    version = store.current()
    assert version is not None
    arrays = store.open(version).arrays
    types = ["resume"] * arrays.worded + ["challenge"] * (len(arrays.item_id) - arrays.worded)
    return {(kind, number) for kind, number in zip(types, arrays.item_id.tolist(), strict=True)}


def scroll(clients: Clients, person: Person, tab: int, pages: range) -> None:
    """Pages of one tab; some are asked for again, at once on two connections."""
    for page in pages:
        draw = random.Random(f"{SEED} {person.user} {tab} {page}")
        fields: dict[str, Any] = {"SELF_ID": person.user, "N_VIDEOS": draw.randint(4, LARGEST_PAGE), "explain": True}
        if tab:
            fields["session_id"] = f"tab {tab} of {person.user}"
        path, key = f"/api/search/{draw.choice(('total', 'total', 'discover'))}", f"{person.user} {tab} {page}"
        bodies = [clients.post_until_answered(path, fields, key)]
        if draw.random() < 0.3:
            with ThreadPoolExecutor(2) as two:
                bodies += two.map(clients.post_until_answered, [path] * 2, [fields] * 2, [key] * 2)
        assert len(set(bodies)) == 1, "a retry got another answer"
        person.answers.append(read(bodies[0]))


def scroll_together(clients: Clients, people: Sequence[Person], pages: range) -> None:
    with ThreadPoolExecutor(len(people) * TABS) as tabs:
        done = [tabs.submit(scroll, clients, person, tab, pages) for person in people for tab in range(TABS)]
        for one in done:
            one.result()


def has_seen_all(person: Person) -> bool:
    return any("seen" in answer.relaxed for answer in person.answers)


def check(person: Person, inventory: set[Key], lost_feeds: int = 0) -> None:
    """Nothing was shown twice before everything was shown once.

    ``lost_feeds``: of killed workers, which had noted them for the user and could not send them.
    """
    fresh = person.fresh
    twice = {key for key in fresh if fresh.count(key) > 1}
    assert not twice, f"user {person.user} was shown {sorted(twice)} twice"
    if has_seen_all(person):
        never = {key for key in inventory if key[0] == "resume"} - set(fresh)
        assert len(never) <= LARGEST_PAGE * lost_feeds, "something was repeated too early"


def test_who_scrolls_in_several_tabs_on_several_workers_sees_nothing_twice_though_workers_are_killed(
    service: Service, clients: Clients, inventory: set[Key]
) -> None:
    people = [Person(user) for user in (7, 178, 10**12)]
    over = threading.Event()
    killed: list[int] = []

    def kill_now_and_then() -> None:
        draw = random.Random(SEED)
        while not over.wait(0.4) and len(killed) < KILLS:
            if len(workers := sorted(service.workers)) == WORKERS:  # those killed before are replaced
                killed.append(draw.choice(workers))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        page = 0
        while len(killed) < KILLS or not all(has_seen_all(person) for person in people):
            if all(has_seen_all(person) for person in people):
                people.append(Person(people[-1].user + 1))
            scroll_together(clients, people, range(page, page + 4))
            page += 4
    finally:
        over.set()
        killer.join()
    assert len(killed) == KILLS
    # With Redis an answer is kept under its key only when the fleet agrees, a moment after its items were noted: a
    # worker that is killed between takes those with it. Without, both are one step.
    lost_feeds = clients.lost if service.metric("recs_redis_operations_total") else 0
    for person in people:
        check(person, inventory, lost_feeds)
    assert service.metric("recs_feeds_repeated_total") > 0


def test_many_requests_of_one_user_at_once_share_nothing(service: Service, clients: Clients) -> None:
    """Far more than a person makes: each replaces what the others have just read."""
    person = Person(424_242)

    def page(_: int) -> Answer:
        return clients.feed(SELF_ID=person.user, N_VIDEOS=3)

    for _ in range(4):
        with ThreadPoolExecutor(16) as tabs:
            person.answers += tabs.map(page, range(16))
    fresh = person.fresh
    assert len(fresh) == 4 * 16 * 3
    assert len(set(fresh)) == len(fresh)
    assert not any("seen" in answer.relaxed for answer in person.answers)


def test_an_anonymous_person_who_names_a_session_sees_nothing_twice(clients: Clients) -> None:
    pages = [clients.feed(session_id="an anonymous tab", N_VIDEOS=10) for _ in range(12)]
    shown = [key for page in pages for key in page.fresh]
    assert len(set(shown)) == len(shown) == 120


def test_what_is_hidden_is_gone_from_the_very_next_feed_of_every_worker(clients: Clients) -> None:
    user = 31_337
    first = clients.feed(SELF_ID=user, N_VIDEOS=2, session_id="x").fresh
    kind, number = first[0]
    event = {"event": "hide", "user_id": user, "item_type": kind, "item_id": number}
    status, body = clients.post("/api/feedback", event)
    assert status == 202, body
    Event().wait(1.1)  # what was seen longest ago comes back first, and times are whole seconds
    # Until everything was shown, and what was is shown again.
    answers: list[Answer] = []
    while not (answers and "seen" in answers[-1].relaxed):
        answers.append(clients.feed(SELF_ID=user, N_VIDEOS=100))
    answers += [clients.feed(SELF_ID=user, N_VIDEOS=100) for _ in range(3 * WORKERS)]
    shown = {key for answer in answers for key in (*answer.fresh, *answer.repeated)}
    assert first[0] not in shown
    assert first[1] in shown


def test_one_key_at_once_on_all_workers_gets_one_answer(clients: Clients) -> None:
    with ThreadPoolExecutor(16) as tabs:
        for number in range(5):
            fields, path = {"SELF_ID": 555_000 + number, "N_VIDEOS": 24}, "/api/search/total"
            answers = set(tabs.map(clients.post, [path] * 16, [fields] * 16, [f"key {number}"] * 16))
            assert len(answers) == 1
            [(status, _)] = answers
            assert status == 200


def test_no_feed_failed(service: Service) -> None:
    assert service.metric("recs_requests_total", status="500") == 0
    assert service.metric("recs_memory_failures_total") == 0

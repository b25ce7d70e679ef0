"""Monitoring as an operator has it: a real Prometheus scrapes a real Gunicorn that reads a real MariaDB."""

from __future__ import annotations

import math
import os
import re
import runpy
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pymysql
import pytest
import sqlalchemy
import yaml
from sqlalchemy.engine import URL

from recommendation_service.catalog.server_figures import (
    FIGURES_FILE,
    NO_INDEX,
    STALE_SECONDS,
    ServerFigures,
    ServerWatch,
    last_figures,
)
from recommendation_service.demo import load_invented
from recommendation_service.log.reader import LogReader
from recommendation_service.mappings.interacpedia.schema import REQUIRED
from recommendation_service.mappings.interacpedia.statements import tables_read
from tests.end_to_end.service import REPOSITORY, Service, sum_of_samples
from tests.servers import LOOPBACK, NO_AUTHORITIES, PrivateMariaDB, PrivateServer, find_program, wait_until

DEPLOY = REPOSITORY / "deploy"
ALERTS_FILE = DEPLOY / "prometheus" / "alerts.yml"
TESTS_FILE = DEPLOY / "prometheus" / "alerts.test.yml"
GENERATOR = runpy.run_path(str(DEPLOY / "grafana" / "generate.py"))
RUNBOOKS = REPOSITORY / "docs" / "runbooks.md"
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS_FILE.read_text())["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule for rule in RULES}
PANELS = [panel for panel in GENERATOR["dashboard"]()["panels"] if panel["type"] != "row"]
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel.get("targets", [])
}
# What stands for the dashboard's variables.
CHOSEN = {"$job": "recommendation-service", "$instance": ".*", "$__rate_interval": "30s"}
SOON_SECONDS = 60.0
UNKNOWN_USER = 1_000_000_000
DATABASE = "interacpedia"
USER, PASSWORD = "reader", "only-for-this-test"

_SELECTOR = re.compile(r"\b(?:recs_\w+|up)\b(?:\{[^}]*\})?")
_THRESHOLD = re.compile(r"^(?P<query>.*) (?P<comparison>[<>]) (?P<limit>[\d.e]+)$", re.S)


class PrivatePrometheus(PrivateServer):
    """With the example configuration, but for the target's address and a shorter interval."""

    name = "prometheus"

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder)
        self.target = target

    def prepare(self) -> None:
        configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        configuration["global"] |= dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
        configuration["rule_files"] = [str(ALERTS_FILE)]
        configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [self.target]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def command(self) -> list[str]:
        return [
            find_program("prometheus", "prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{self.port}",
        ]

    def answers(self, timeout_seconds: float = 1.0) -> bool:
        try:
            return (
                httpx.get(f"{self.address}/-/ready", timeout=timeout_seconds, verify=NO_AUTHORITIES).status_code == 200
            )
        except httpx.TransportError:
            return False

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def api(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(
            f"{self.address}/api/v1/{path}", params=parameters, timeout=SOON_SECONDS, verify=NO_AUTHORITIES
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def values(self, query: str) -> list[float]:
        """The query's present values, without those that are no number (0/0)."""
        found = (float(series["value"][1]) for series in self.api("query", query=query)["result"])
        return [value for value in found if not math.isnan(value)]


# A database server whose index use may be read.


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    with PrivateMariaDB(tmp_path_factory.mktemp("mariadb"), performance_schema=True) as server:
        server.execute(
            f"CREATE DATABASE {DATABASE}",
            f"CREATE USER {USER}@{LOOPBACK} IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT ON {DATABASE}.* TO {USER}@{LOOPBACK}",
            "CREATE DATABASE other",
            "CREATE TABLE other.users (id INT PRIMARY KEY)",
        )
        engine = sqlalchemy.create_engine(server.url(DATABASE))
        load_invented(engine, scale=0.01)
        engine.dispose()
        yield server


@pytest.fixture
def grant(database: PrivateMariaDB) -> Iterator[None]:
    table = "performance_schema.table_io_waits_summary_by_index_usage"
    database.execute(f"GRANT SELECT ON {table} TO {USER}@{LOOPBACK}")
    yield
    database.execute(f"REVOKE SELECT ON {table} FROM {USER}@{LOOPBACK}")


def reader_url(database: PrivateMariaDB) -> URL:
    return database.url(DATABASE).set(username=USER, password=PASSWORD)


@pytest.fixture
def engine(database: PrivateMariaDB) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(reader_url(database))
    yield engine
    engine.dispose()


def look(engine: sqlalchemy.Engine, folder: Path) -> ServerFigures:
    ServerWatch(engine, folder, tables_read()).look()
    return last_figures(folder)


def connect(database: PrivateMariaDB) -> closing[pymysql.connections.Connection[Any]]:
    return closing(pymysql.connect(host=LOOPBACK, port=database.port, user=USER, password=PASSWORD, database=DATABASE))


def test_connections_and_their_limit_are_read_by_who_may_only_select(
    database: PrivateMariaDB, engine: sqlalchemy.Engine, tmp_path: Path
) -> None:
    before = look(engine, tmp_path).variables
    with connect(database), connect(database):
        assert look(engine, tmp_path).variables["Threads_connected"] >= before["Threads_connected"] + 2
    assert before["max_connections"] == 151
    assert before["Threads_running"] >= 1


def test_slow_queries_are_counted(database: PrivateMariaDB, engine: sqlalchemy.Engine, tmp_path: Path) -> None:
    before = look(engine, tmp_path).variables
    with connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION long_query_time = 0")
        cursor.execute("SELECT SLEEP(0.01)")
    assert look(engine, tmp_path).variables["Slow_queries"] > before["Slow_queries"]
    assert before["long_query_time"] == 10


def take_all(database: PrivateMariaDB, held: ExitStack) -> None:
    for _ in range(12):
        held.enter_context(connect(database))


def test_refused_connections_are_counted(database: PrivateMariaDB, engine: sqlalchemy.Engine, tmp_path: Path) -> None:
    before = look(engine, tmp_path).variables  # over a connection that stays, as the refresher's does
    database.execute("SET GLOBAL max_connections = 10")
    with ExitStack() as held, pytest.raises(pymysql.err.OperationalError, match="Too many connections"):
        take_all(database, held)
    assert wait_until(database.answers, SOON_SECONDS)
    database.execute("SET GLOBAL max_connections = 151")
    assert look(engine, tmp_path).variables["Aborted_connects"] > before["Aborted_connects"]


def test_use_of_each_index_is_read(
    database: PrivateMariaDB, engine: sqlalchemy.Engine, tmp_path: Path, grant: None
) -> None:
    def reads() -> dict[tuple[str, str], int]:
        return {(table, index): count for table, index, count in look(engine, tmp_path).index_reads}

    before = reads()
    with connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM users ORDER BY id LIMIT 20")
    after = reads()
    assert after["users", "PRIMARY"] - before.get(("users", "PRIMARY"), 0) == 20
    assert ("users", NO_INDEX) in after
    assert {table for table, _ in after} <= set(REQUIRED)


def test_without_the_right_there_is_no_index_and_the_rest_is_there(
    database: PrivateMariaDB, engine: sqlalchemy.Engine, tmp_path: Path
) -> None:
    figures = look(engine, tmp_path)
    assert figures.index_reads == []
    assert "Threads_connected" in figures.variables


def test_a_server_that_does_not_answer_has_no_figures_once_they_are_old(
    tmp_path: Path,
) -> None:
    with PrivateMariaDB(tmp_path / "server") as server:
        engine = sqlalchemy.create_engine(server.url("mysql"))
        figures = look(engine, tmp_path)
        assert figures.variables
        assert figures.index_reads == []  # performance_schema is off
        server.kill()
        assert look(engine, tmp_path) == figures
        path = tmp_path / FIGURES_FILE
        path.write_text(path.read_text().replace(str(figures.read_at), str(figures.read_at - STALE_SECONDS)))
        assert last_figures(tmp_path) == ServerFigures()
        engine.dispose()


def test_sqlite_has_no_figures(sqlite_url: URL, tmp_path: Path) -> None:
    threads = threading.active_count()
    ServerWatch(sqlalchemy.create_engine(sqlite_url), tmp_path, ()).start()
    assert threading.active_count() == threads


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"read_at": "x"}', b"\xff", b'{"read_at": 1e99}'])
def test_a_file_that_is_no_figures_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FIGURES_FILE).write_bytes(content)
    assert last_figures(tmp_path) == ServerFigures()


def test_the_tables_whose_indices_are_told_are_those_that_are_read() -> None:
    assert set(tables_read()) == set(REQUIRED)


# Alerts, by promtool.


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        [find_program("promtool", "prometheus"), *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_and_alerts_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_and_is_silent_as_its_tests_say() -> None:
    promtool("test", "rules", TESTS_FILE.name)


def test_each_alert_is_tested_both_firing_and_silent() -> None:
    cases = [case for group in yaml.safe_load(TESTS_FILE.read_text())["tests"] for case in group["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(ALERTS)
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_and_a_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    address, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert address == "{{ $externalLabels.runbooks }}" + str(RUNBOOKS.relative_to(REPOSITORY))
    page = RUNBOOKS.read_text()
    assert anchor == name.lower()
    assert f"\n## {name}\n" in page
    row = next(line for line in page.splitlines() if line.startswith(f"| [{name}]"))
    lasts = rule["for"].replace("m", " minutes") if "for" in rule else "at once"
    assert row.endswith(f"| {lasts} | {rule['labels']['severity']} |")


def test_the_alerts_are_those_of_the_operators_guide_and_of_events() -> None:
    limits = {}
    for name, rule in ALERTS.items():
        match = _THRESHOLD.match(rule["expr"])
        assert match
        limits[name.removeprefix("Recommendation")] = (match["comparison"], float(match["limit"]))
    assert limits == {
        "ThroughputLow": ("<", 100),
        "LatencyHigh": (">", 2),
        "ErrorRateHigh": (">", 0.01),
        "CpuHigh": (">", 0.9),
        "MemoryHigh": (">", 7e9),
        "MysqlConnectionsHigh": (">", 150),
        # And what the guide did not know of.
        "BlacklistHeld": (">", 0),
        "ConnectionsRefused": (">", 0),
        "EventsRefused": (">", 0),
        "MemoryOfUsersFails": (">", 0),
        "MemoryOfUsersFull": (">", 0),
        "EventsWaiting": (">", 3600),
        "EventsOverdue": (">", 60),
        "ReaderBehind": (">", 3600),
        "LearnerBehind": (">", 1800),
        "ExperimentRatioOff": ("<", 0.001),
        "ReaderCutOff": (">", 0),
        "DecisionsUnrecorded": (">", 0),
        "PolicyFellBack": (">", 0),
        "EditorsNotFollowed": (">", 0),
        "PinsAbsent": (">", 0),
        "DeadLetters": (">", 0),
        "Problems": (">", 0),
    }
    assert ALERTS["RecommendationCpuHigh"]["for"] == "5m"


# The dashboard.


def test_the_dashboard_in_the_repository_is_what_is_generated() -> None:
    assert GENERATOR["FILE"].read_text("utf-8") == GENERATOR["rendered"](), "run python deploy/grafana/generate.py"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


# A service under load, and the Prometheus that scrapes it.


@pytest.fixture(scope="module")
def service(database: PrivateMariaDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    database.execute(
        f"GRANT SELECT ON performance_schema.table_io_waits_summary_by_index_usage TO {USER}@{LOOPBACK}",
    )
    settings = {
        "MYSQL_HOST": LOOPBACK,
        "MYSQL_PORT": str(database.port),
        "MYSQL_USER": USER,
        "MYSQL_PASSWORD": PASSWORD,
        "MYSQL_DB": DATABASE,
        "LEARNER": "store",
    }
    with Service.gunicorn(tmp_path_factory.mktemp("service"), 2, settings) as service:
        service.wait_until_ready()
        LogReader(service.data_dir / "events", "mine").close()  # so that there is one beside the flush
        yield service


@pytest.fixture(scope="module")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivatePrometheus]:
    """Has scraped the service for some time while feeds were asked of it."""
    folder = tmp_path_factory.mktemp("prometheus")
    with PrivatePrometheus(folder, service.address.removeprefix("http://")) as server:
        ended = threading.Event()
        load = threading.Thread(target=_ask, args=(service, ended))
        load.start()
        try:
            # A rate takes two scrapes; a stage is timed of one feed in 64.
            service.wait_until(lambda: server.values("min(count_over_time(recs_mysql_threads_connected[1h]))") >= [3])
            service.wait_until(lambda: server.values("sum(rate(recs_feed_stage_seconds_count[1m]))") > [0])
            service.wait_until(lambda: server.values("sum(rate(recs_request_seconds_count[1m]))") > [0])
            yield server
        finally:
            ended.set()
            load.join()


def _ask(service: Service, ended: threading.Event) -> None:
    """All three feeds for different users, also for some that nobody knows, until told to end."""
    with httpx.Client(base_url=service.address, timeout=SOON_SECONDS) as client:
        user = 0
        while not ended.is_set():
            user += 1
            for endpoint in ("total", "discover", "flow"):
                with suppress(httpx.TransportError):  # its worker was killed
                    client.post(f"/api/search/{endpoint}", json={"user_id": _user(user), "N_VIDEOS": 24})
            ended.wait(0.005)


def _user(number: int) -> int:
    return number % 500 if number % 5 else UNKNOWN_USER + number % 50


def with_choices(query: str) -> str:
    for variable, value in CHOSEN.items():
        query = query.replace(variable, value)
    return query


def assert_data(prometheus: PrivatePrometheus, query: str) -> None:
    """The query has values, and so has each selector in it: an `or` or a sum would hide one that finds nothing."""
    for part in (query, *_SELECTOR.findall(query)):
        assert wait_until(lambda part=part: prometheus.values(part) != [], SOON_SECONDS), f"no data: {part}"  # type: ignore[misc]


@pytest.mark.parametrize("panel", QUERIES)
def test_each_panels_query_returns_data(prometheus: PrivatePrometheus, panel: str) -> None:
    query = with_choices(QUERIES[panel])
    assert "$" not in query
    assert_data(prometheus, query)


@pytest.mark.parametrize("name", GENERATOR["VARIABLES"])
def test_each_variable_of_the_dashboard_has_values(prometheus: PrivatePrometheus, name: str) -> None:
    match = re.fullmatch(r"label_values\((.*), (\w+)\)", with_choices(GENERATOR["VARIABLES"][name]))
    assert match
    expected = {"job": "recommendation-service", "instance": prometheus.target}[match[2]]
    assert prometheus.api(f"label/{match[2]}/values", **{"match[]": match[1]}) == [expected]


@pytest.mark.parametrize("name", ALERTS)
def test_each_alerts_query_returns_data(prometheus: PrivatePrometheus, name: str) -> None:
    match = _THRESHOLD.match(ALERTS[name]["expr"])
    assert match
    assert_data(prometheus, match["query"])


def test_prometheus_evaluates_each_alert(prometheus: PrivatePrometheus) -> None:
    def health() -> dict[str, str]:
        groups = prometheus.api("rules", type="alert")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    assert wait_until(lambda: health() == dict.fromkeys(ALERTS, "ok"), SOON_SECONDS), health()


def test_a_scrape_holds_few_series(prometheus: PrivatePrometheus) -> None:
    assert 100 < prometheus.values("max_over_time(scrape_samples_scraped[5m])")[0] < 1500


def test_prometheus_and_the_service_agree(prometheus: PrivatePrometheus, service: Service) -> None:
    """What was scraped lies between what the service told before and after."""
    # The last one that arrived: a scrape may come too late on a busy machine.
    query = 'sum(last_over_time(recs_requests_total{endpoint="total", status="200"}[5m]))'
    before = sum_of_samples(service.get("/metrics").text, "recs_requests_total", endpoint="total", status="200")
    assert before > 0
    assert wait_until(lambda: prometheus.values(query)[0] >= before, SOON_SECONDS)
    scraped = prometheus.values(query)[0]
    after = sum_of_samples(service.get("/metrics").text, "recs_requests_total", endpoint="total", status="200")
    assert before <= scraped <= after


def test_no_counter_falls_while_workers_are_killed(prometheus: PrivatePrometheus, service: Service) -> None:
    killed = service.workers
    for pid in killed:
        os.kill(pid, 9)
    service.wait_until(lambda: not killed & service.workers and len(service.workers) == 2)
    service.wait_until(lambda: service.get("/ready").status_code == 200)
    started = prometheus.api("query", query="time()")["result"][1]
    service.wait_until(lambda: max(prometheus.values("timestamp(recs_ready)"), default=0) > float(started) + 1)
    names = prometheus.api("label/__name__/values", **{"match[]": '{__name__=~"recs_.*_(total|count|sum|bucket)"}'})
    assert {"recs_requests_total", "recs_request_seconds_bucket", "recs_cpu_seconds_total"} <= set(names)
    assert [name for name in names if prometheus.values(f"resets({name}[5m]) > 0")] == []

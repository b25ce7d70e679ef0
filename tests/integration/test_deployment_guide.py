"""The deployment guides: every block that can run here runs, in the guide's order, and whatever they name is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from sqlalchemy import NullPool, create_engine

from recommendation_service import cli
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.demo import load_invented
from recommendation_service.mappings.interacpedia.schema import PHASE_1
from tests.end_to_end.service import REPOSITORY, checkout, pids_with_variable
from tests.servers import LOOPBACK, PrivateMariaDB, find_program, free_port, wait_until
from tests.unit.test_docs import commands, documented_settings, rows, section

ENGLISH, SPANISH = REPOSITORY / "docs" / "deployment.md", REPOSITORY / "docs" / "deployment.es.md"
GUIDES = pytest.mark.parametrize("guide", [ENGLISH, SPANISH], ids=["English", "Spanish"])
# Half a minute on an idle machine of two cores.
PATIENCE_SECONDS = 900

# What cannot run here: it needs root, an init system, a cluster, another machine, or what the reader alone knows.
ONLY_ELSEWHERE = {
    *("cd", "export", "read", "git", "make", "mysqldump"),
    *("sudo", "systemctl", "systemd-analyze", "docker", "kubectl"),
}
# Exit status 1 says that this machine is smaller or busier than what the guide is for.
MAY_DEPEND_ON_THE_MACHINE = (".venv/bin/recs doctor", "test_load_performance.py")
# Written in capitals like settings, and none.
NO_SETTINGS = {"MYSQL_PWD", "NUMBA_CACHE_DIR", "SELF_ID", "SUBSTRING_INDEX"}
USERS = {"recs", "recs_admin"}
TABLES = {"recs_events", "recs_schema"}


class Block(NamedTuple):
    info: str  # the fence's info string
    text: str

    @property
    def commands(self) -> list[str]:
        """Lines, those that are continued joined."""
        return self.text.replace("\\\n", "").splitlines()


def blocks(guide: Path) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```([^\n]*)\n(.*?)^```$", guide.read_text("utf-8"), re.M | re.S)]


def prose(guide: Path) -> str:
    return re.sub(r"^```.*?^```$", "", guide.read_text("utf-8"), flags=re.M | re.S)


def assignments(block: Block) -> dict[str, str]:
    """Of a block of settings."""
    return dict(line.split("=", 1) for line in block.text.splitlines())


def everything_named(guide: Path, pattern: str) -> set[str]:
    return set(re.findall(pattern, guide.read_text("utf-8")))


# The walk through the guide.


class Walk(NamedTuple):
    """What each block printed, and the exit statuses of those whose status depends on the machine."""

    status: int
    printed: Mapping[int, str]
    statuses: Mapping[int, int]
    folder: Path
    left: frozenset[int]  # processes that were still there at the end

    def of(self, words: str) -> str:
        """What the one block with these words printed."""
        (number,) = (number for number, block in enumerate(blocks(ENGLISH)) if words in block.text)
        return self.printed[number]


def script(server: PrivateMariaDB, port: int) -> str:
    """All blocks in one shell, as somebody types them who has our server, our port and less time."""
    replaced = {
        "5005": str(port),
        "0.0.0.0:": f"{LOOPBACK}:",
        "10.0.0.%": LOOPBACK,
        "db.internal": LOOPBACK,
        "3306": str(server.port),
        "--duration 30": "--duration 1 --warm-up 0.5",
        "sleep 10": "sleep 1",
    }
    address = f"--protocol=tcp --host={LOOPBACK} --port={server.port} --user={server.user}"
    administrator = f"MYSQL_PWD={server.password} mysql {address} --loose-ssl-verify-server-cert=0 interacpedia"
    lines, service = [], ""
    for number, (info, original) in enumerate(blocks(ENGLISH)):
        text = original
        for before, after in replaced.items():
            text = text.replace(before, after)
        lines.append(f'exec > "$PRINTED/{number}" 2>&1')
        if info == "sql":
            lines.append(f"{administrator} <<'SQL'\n{text}SQL")
        elif info == "sh" and any(words in text for words in MAY_DEPEND_ON_THE_MACHINE):
            # Of several commands each but these has to succeed: they are made to, and their status is kept.
            kept = re.sub(
                r"^(\.venv/bin/(?:recs doctor|python test_load_performance\.py)[^&\n]*|wait \$load)$",
                rf'\1 || echo $? >> "$PRINTED/{number}.status"',
                text,
                flags=re.M,
            )
            lines.append(kept)
        elif info == "sh":
            lines.append(text.replace("scripts/start_production.sh >", f"env {service} scripts/start_production.sh >"))
        elif info == "ini" and ("GUNICORN_BIND" in text or "RECORD_EVENTS" in text):
            service += " ".join(["", *text.splitlines()])  # as systemd reads it, for the service alone
    return "\n".join(["set -euo pipefail", *lines])


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("guide")
    server = PrivateMariaDB(folder / "mariadb", performance_schema=True)
    server.user = "an_administrator"  # `recs` is made by the guide
    with server:
        server.execute("CREATE DATABASE interacpedia")
        engine = create_engine(server.url("interacpedia"), poolclass=NullPool)
        load_invented(engine, scale=0.02)
        engine.dispose()
        yield walked(folder, server)
    shutil.rmtree(folder / "mariadb")


def walked(folder: Path, server: PrivateMariaDB) -> Walk:
    root, printed, data = checkout(folder), folder / "printed", folder / "data"
    printed.mkdir()
    (root / "scripts").mkdir()
    for name in ("scripts/start_production.sh", "migrations", "deploy", "test_load_performance.py"):
        (root / name).symlink_to(REPOSITORY / name)
    (root / ".venv").symlink_to(sys.prefix)
    password = re.search(r"'recs_admin'.* IDENTIFIED BY '(.*)'", ENGLISH.read_text("utf-8"))
    assert password
    environment = os.environ | {
        "DATA_DIR": str(data),
        "PRINTED": str(printed),
        "MYSQL_HOST": LOOPBACK,
        "MYSQL_PORT": str(server.port),
        "MYSQL_USER": "recs_admin",
        "MYSQL_PWD": password[1],
        "MYSQL_PASSWORD": password[1],
        "MYSQL_DB": "interacpedia",
        "RECORD_EVENTS": "false",
        "SEEN_STATE": "false",
        "EVENT_FLUSHER": "false",
        "SHED_LOAD_AFTER_SECONDS": "60",  # a busy machine must not look like a fault of the guide
    }
    try:
        done = subprocess.run(
            ["bash", "-c", script(server, free_port())],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        wait_until(lambda: not pids_with_variable("DATA_DIR", str(data)), 60)
        left = frozenset(pids_with_variable("DATA_DIR", str(data)))
    finally:
        for pid in pids_with_variable("DATA_DIR", str(data)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    statuses = {int(path.stem): int(path.read_text().split()[-1]) for path in printed.glob("*.status")}
    texts = {int(path.name): path.read_text(errors="replace") for path in printed.iterdir() if not path.suffix}
    return Walk(done.returncode, texts, statuses, root, left)


def test_every_block_that_can_run_here_runs_in_the_guides_order(walk: Walk) -> None:
    last = max(walk.printed)
    assert walk.status == 0, f"{blocks(ENGLISH)[last].text}\nprinted:\n{walk.printed[last]}"
    assert set(walk.printed) == set(range(len(blocks(ENGLISH))))
    assert len([block for block in blocks(ENGLISH) if block.info in {"sh", "sql"}]) > 20
    assert set(walk.statuses.values()) <= {0, 1}


def test_the_processes_that_the_guide_starts_are_stopped_by_it(walk: Walk) -> None:
    assert walk.left == set()


@GUIDES
@pytest.mark.parametrize(
    ("dump", "is_kept"),
    [
        ("echo '-- MariaDB dump'; exit 2", False),
        ("echo '-- MariaDB dump'", False),
        ("echo '-- Dump completed on 2026-11-28'", True),
    ],
    ids=["failed", "cut off", "whole"],
)
def test_a_backup_that_is_not_whole_leaves_none_that_looks_like_one(
    guide: Path, tmp_path: Path, dump: str, is_kept: bool
) -> None:
    """The line of the guide; the program comes with the client's package, which is not needed otherwise."""
    (line,) = (block.text for block in blocks(guide) if block.text.startswith("mysqldump "))
    program = tmp_path / "mysqldump"
    program.write_text(f"#!/bin/sh\nexec > backup.unfinished\n{dump}\n")
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MYSQL_DB": "interacpedia"}

    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, check=False)

    assert (done.returncode == 0, (tmp_path / "backup.sql").exists()) == (is_kept, is_kept)


def test_the_doctor_finds_no_error_with_the_privileges_of_the_guide(walk: Walk) -> None:
    said = walk.of("nproc")
    assert "\n0 errors, " in said
    assert "privilege INDEX: recs_admin" in said


def test_phase_1_is_complete_and_its_medians_are_shown(walk: Walk) -> None:
    assert f"complete: all {len(PHASE_1)} are there" in walk.of("before.txt")
    assert (walk.folder / "before.txt").read_text() != (walk.folder / "after.txt").read_text()
    for query, target in (("users", 100), ("videos", 80), ("engagement_views", 70)):
        assert re.search(rf"query {query}: .* takes [\d.]+ ms .*target < {target} ms", walk.of("grep 'query '"))
    assert f"{len(PHASE_1)} dropped" in walk.of("phase1_rollback.sql")


def test_phase_2_shows_the_pool_and_fewer_than_30_connections_under_load(walk: Walk) -> None:
    said = walk.of("phase2.txt")
    connections = re.search(r"^Threads_connected\t(\d+)$", said, re.M)
    assert connections
    assert 0 < int(connections[1]) < 30
    assert f"Connection pool inicializado: 20 conexiones a {LOOPBACK}:" in said


def test_the_load_tests_give_a_verdict_on_each_phase_without_an_error(walk: Walk) -> None:
    text = "\n".join(walk.printed.values())
    for phase in ("1", "2", "3", "next"):
        assert f"Asked for: phase {phase}, " in text
    assert set(re.findall(r"^errors +(\S+)", text, re.M)) == {"0.00%"}


def test_phase_3_keeps_within_its_connections_and_memory(walk: Walk) -> None:
    said = walk.of("Iniciando Gunicorn")
    connections = re.search(r"^Threads_connected\t(\d+)$", said, re.M)
    assert connections
    assert 0 < int(connections[1]) < 30
    taken = {
        name: float(value) for name, value in re.findall(r'^recs_memory_bytes{process="(\w+)"} (\S+)$', said, re.M)
    }
    assert {"master", "worker", "refresher"} <= set(taken)
    assert sum(taken.values()) < 6e9


def test_phase_3_writes_the_lines_that_runbooks_search_for(walk: Walk) -> None:
    assert "Ready to start." in walk.of("--check")
    said = walk.of("Iniciando Gunicorn")
    assert re.search(r"DataService inicializado: \d+ users, \d+ videos, \d+ interactions", said)
    assert "RecommendationEngine inicializado" in said


def test_ab_counts_no_failed_and_no_non_2xx_answer(walk: Walk) -> None:
    said = walk.of("ab -n 1000")
    assert re.search(r"^Complete requests: +1000$", said, re.M)
    assert re.search(r"^Failed requests: +0$", said, re.M)
    assert "Non-2xx" not in said


def test_a_feed_says_why(walk: Walk) -> None:
    body = json.loads((walk.folder / "feed.json").read_text())["body"]
    assert len(body["items"]) == 24
    assert all("why" in item for item in body["items"])


def test_without_the_step_of_events_nothing_is_written_to_the_database(walk: Walk) -> None:
    dry = walk.of("recs migrate --dry-run")
    assert dry.count("CREATE TABLE IF NOT EXISTS recs_") == 2, "no phase before it made them"
    assert "Carried out 1: recs_events" in dry


def test_with_the_privileges_of_the_guide_events_come_into_both_tables_once(walk: Walk) -> None:
    said = walk.of("proof-1")
    assert '"accepted":1' in said
    assert "All events are in the database." in said
    assert re.search(r"flusher\W+runs\b", said)
    assert re.search(r"last problem\W+none\b", said)
    assert "There are no dead letters." in said
    assert re.findall(r"^(feed|impression)\t(\d+)$", said, re.M) == [("feed", "1"), ("impression", "1")]
    assert sorted(re.findall(r"^(#\S+ #\S+ #\S+)\t(\S+)$", said, re.M)) == [
        ("#feed #request #total", "/api/search/total"),
        ("#video #view #UNKNOWN", "/api/search/feed/video/2211"),
    ]


def test_a_user_is_forgotten_with_the_privileges_of_the_guide(walk: Walk) -> None:
    removed = json.loads(walk.of("--request DELETE"))["body"]
    assert removed["events"] == 2
    assert removed["remembered_items"] >= 24


def test_the_services_tables_go_and_come_again(walk: Walk) -> None:
    assert "Carried out 1: recs_events" in walk.of("DROP TABLE recs_events")


def test_promtool_finds_no_fault_with_the_alerts(walk: Walk) -> None:
    assert "SUCCESS" in walk.of("promtool check")


def test_what_is_watched_is_shown(walk: Walk) -> None:
    metrics = walk.of("/metrics | grep -E")
    for name in ("recs_requests_total", "recs_request_seconds_count", "recs_memory_bytes", "recs_cpu_seconds_total"):
        assert f"\n{name}" in f"\n{metrics}"
    assert walk.of("ps -eo").count("gunicorn") > 8
    assert "Slow_queries\t" in walk.of("processlist")
    assert re.search(r"^recs\t", walk.of("processlist"), re.M)
    assert "long_query_time\t1.0" in walk.of("SHOW GLOBAL VARIABLES")


def test_the_use_of_each_index_is_shown(walk: Walk) -> None:
    found = [line.split("\t") for line in walk.of("count_read").splitlines()[1:]]
    reads = {index: int(count) for _, index, count, _ in found}
    of_phase_1 = {name for name in reads if not name.startswith("recs_events_")}
    assert of_phase_1 == {index.name for index in PHASE_1}
    assert reads["recs_users_updated"] > 0


# What the guides say.


def test_both_languages_have_the_same_blocks() -> None:
    assert blocks(SPANISH) == blocks(ENGLISH)


def test_both_languages_have_the_same_structure() -> None:
    escaped_bar = "\\|"

    def structure(guide: Path) -> list[str]:
        """Ranks of headings, numbers of columns, boxes of the checklist, and where links to other pages lead."""
        text = prose(guide)
        lines = [line for line in text.splitlines() if re.match(r"#|\||- \[ \]|\d\. ", line)]
        shapes = [f"{line.split(' ')[0]} {line.replace(escaped_bar, '').count('|')}" for line in lines]
        return shapes + [link for link in re.findall(r"\]\(([^#)][^)]*)\)", text) if "deployment." not in link]

    assert structure(SPANISH) == structure(ENGLISH)


@GUIDES
def test_code_in_the_text_is_the_same_in_both_languages(guide: Path) -> None:
    def code(page: Path) -> list[str]:
        return sorted(re.findall(r"`([^`]+)`", prose(page)))

    assert code(guide) == code(ENGLISH)


@GUIDES
def test_only_what_cannot_run_here_is_left_out_of_the_test(guide: Path) -> None:
    assert {block.info for block in blocks(guide)} == {"sh", "sh no-test", "sql", "ini", "text"}
    for block in blocks(guide):
        if block.info == "sh no-test":
            assert {command.split()[0] for command in block.commands} <= ONLY_ELSEWHERE


@GUIDES
def test_every_setting_is_one(guide: Path) -> None:
    named = everything_named(guide, r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b")
    assert named - {name.upper() for name in Settings.model_fields} - NO_SETTINGS == set()
    assert named - set(documented_settings()) - NO_SETTINGS == set()


@GUIDES
def test_the_settings_of_the_guide_are_valid_together(guide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    for block in blocks(guide):
        if block.info == "ini":
            given |= assignments(block)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert (settings.mysql_user, settings.gunicorn_workers, settings.redis_scheme) == ("recs", 8, "tls")


@GUIDES
def test_every_metric_is_one(guide: Path) -> None:
    named = everything_named(guide, r"\brecs_[a-z0-9_]+") - USERS - TABLES - {index.name for index in PHASE_1}
    documented = {row[0].split("`")[1] for row in rows(REPOSITORY / "docs" / "metrics.md") if "`" in row[0]}
    assert {re.sub(r"_bucket$", "", name) for name in named} - documented == set()


@pytest.mark.parametrize(
    "page", [ENGLISH, SPANISH, *(REPOSITORY / "docs" / "database").glob("*.md")], ids=lambda page: str(page.name)
)
def test_the_number_of_indices_is_that_of_phase_1(page: Path) -> None:
    numbers = everything_named(page, r"all (\d+) are there|(\d+) (?:indices|índices) (?:on|en) |(\d+) created, 0 there")
    named = {number for found in numbers for number in found if number}
    assert named <= {str(len(PHASE_1))}
    assert named or page.name == "phase1_indexes_technical.md"


@GUIDES
def test_what_is_watched_can_be_pasted_into_prometheus(guide: Path, tmp_path: Path) -> None:
    heading = {ENGLISH: "## Monitoring", SPANISH: "## Monitoreo"}[guide]
    queries = [query.replace("\\|", "|") for query in re.findall(r"`([^`]*recs_\w+[^`]*)`", section(guide, heading))]
    rules = tmp_path / "rules.yml"
    watched = [{"record": f"watched:{number}", "expr": query} for number, query in enumerate(queries)]
    rules.write_text(json.dumps({"groups": [{"name": "watched", "rules": watched}]}))

    promtool = find_program("promtool", "prometheus")
    done = subprocess.run([promtool, "check", "rules", str(rules)], capture_output=True, text=True, check=False)

    assert len(queries) > 8
    assert done.returncode == 0, done.stdout + done.stderr


@GUIDES
def test_the_steady_rate_is_the_load_that_capacity_assumes(guide: Path) -> None:
    capacity = (REPOSITORY / "docs" / "capacity.md").read_text("utf-8")
    each = re.search(r"^\| `requests_per_user` \| (\d+) \| feeds/hour", capacity, re.M)
    rates = re.findall(r" --rate (\d+) ", guide.read_text("utf-8"))
    assert each
    assert rates == [str(10_000 * int(each[1]) // 3600)]


@GUIDES
def test_what_kubectl_is_told_is_in_the_manifests(guide: Path) -> None:
    base = REPOSITORY / "deploy" / "kubernetes" / "base"
    manifests = "\n".join(path.read_text("utf-8") for path in base.glob("*.yaml"))
    told = [command for block in blocks(guide) for command in block.commands if command.startswith("kubectl")]
    named = re.findall(r"(?:--namespace|namespace|deployment/|secret generic) ?([a-z-]+)", "\n".join(told))
    assert set(named) == {"recommendations", "recommendation-service"}
    for name in named:
        assert re.search(rf"\b(?:name|namespace): {name}$", manifests, re.M)


@GUIDES
def test_every_command_and_its_options_are_there(guide: Path) -> None:
    known = set(commands(typer.main.get_command(cli.app)))
    named = everything_named(guide, r"(?<=[`/])recs (?:[a-z]+ ?)+")
    assert {name.strip() for name in named} - known == set()


@GUIDES
def test_every_file_is_there(guide: Path) -> None:
    known = r"(?:deploy|migrations|scripts|api|recommendation_service|docs)/[\w./-]+|phase1_\w+\.sql|\w+\.(?:py|yml)"
    named = everything_named(guide, rf"(?<![\w/.])(?:{known})")
    missing = {
        name
        for name in named
        if not (REPOSITORY / name).exists()
        and not (REPOSITORY / "migrations" / name).exists()
        and not (REPOSITORY / "deploy" / "prometheus" / name).exists()
    }
    assert missing == set()


@GUIDES
def test_the_alerts_are_those_that_prometheus_has(guide: Path) -> None:
    heading = {ENGLISH: "## Alerts", SPANISH: "## Alertas"}[guide]
    listed = re.findall(r"^\| `(\w+)`", section(guide, heading), re.M)
    rules = (REPOSITORY / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8")
    assert listed == re.findall(r"- alert: (\w+)", rules)

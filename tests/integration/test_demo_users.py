"""The demo as one watches it: invented people, and what is learned from them while they are there."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from recommendation_service import serve
from recommendation_service.policies.experiment import LIVE
from tests.end_to_end.service import Service, load_demo, recs
from tests.servers import LOOPBACK, free_port, wait_until

SETTLE_MINUTES = "settle_minutes = 0.2\n"


def learning_file(folder: Path) -> Path:
    """The demo's, with a settlement that a test can wait for."""
    shipped = Path(serve.LEARNING_TO_WATCH["learning_file"]).read_text("utf-8")
    assert SETTLE_MINUTES in shipped
    path = folder / "quick.toml"
    path.write_text(shipped.replace(SETTLE_MINUTES, "settle_minutes = 0.02\n"), "utf-8")
    return path


def learned(folder: Path) -> list[dict[str, Any]]:
    versions = json.loads(recs("policy", "list", "--json", folder=folder).stdout)["versions"]
    return [version for version in versions if version["why"].startswith("learned from ")]


def made_live(service: Service, folder: Path) -> bool:
    """Whether what is weighed makes feeds itself by now, as their records say."""
    service.feed("total", SELF_ID=7)
    return any(LIVE.encode() in path.read_bytes() for path in (folder / "data" / "events").glob("*.segment"))


def test_a_demo_that_one_starts_learns_from_people_while_one_watches(tmp_path: Path) -> None:
    load_demo(tmp_path)
    port = free_port()
    command = [sys.executable, "-m", "recommendation_service", "serve", "--demo", "--host", LOOPBACK]
    settings = {"LEARNING_FILE": str(learning_file(tmp_path)), "LEARN_PUBLISH_SECONDS": "2"}
    with Service(tmp_path, [*command, "--port", str(port)], settings, port) as service:
        service.wait_until_ready()
        visits = recs("demo", "users", service.address, "--minutes", "0.1", "--rate", "20", "--json", folder=tmp_path)
        assert (visits.returncode, visits.stderr) == (0, "")
        tally = json.loads(visits.stdout)
        assert tally["feeds"] > 0
        assert tally["events"] > tally["feeds"]
        assert service.metric("recs_events_accepted_total") == tally["events"]
        service.wait_until(lambda: bool(learned(tmp_path)))
        [newest, *_] = learned(tmp_path)
        service.wait_until(lambda: made_live(service, tmp_path))
    assert re.match(r"learned from [\d,]+ shown items: (VMP|AU|NU|FW|FLOW) \w+ [+-]\d", newest["why"])
    assert f"recs demo users {service.address}" in service.log


def test_what_goes_wrong_is_one_line_and_ctrl_c_is_the_end(tmp_path: Path) -> None:
    nobody = recs("demo", "users", f"{LOOPBACK}:{free_port()}", folder=tmp_path)
    assert (nobody.returncode, nobody.stdout, nobody.stderr.count("\n")) == (1, "", 1)
    assert "Is a service there?" in nobody.stderr
    elsewhere = recs("demo", "users", "http://192.0.2.1:5005", folder=tmp_path)
    assert (elsewhere.returncode, "--yes-not-local" in elsewhere.stderr) == (2, True)
    load_demo(tmp_path)
    with Service.uvicorn(tmp_path, {"API_KEYS": "a-key-of-a-client"}) as service:
        service.wait_until_ready()
        without = recs("demo", "users", service.address, folder=tmp_path)
        assert (without.returncode, without.stderr.count("\n")) == (1, 1)
        assert "answered 401" in without.stderr
        with subprocess.Popen(
            [str(Path(sys.executable).with_name("recs")), "demo", "users", service.address],
            env={"DATA_DIR": str(tmp_path / "data"), "API_KEYS": "a-key-of-a-client", "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as people:
            assert wait_until(lambda: service.metric("recs_events_accepted_total") > 0, 60)
            people.send_signal(signal.SIGINT)
            said, complaints = people.communicate(timeout=30)
    assert (people.returncode, said.count("\n"), complaints) == (0, 1, "")
    assert "a feed is worth" in said

"""What was found of a version is shown with it, and when the version is gone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recommendation_service.cli import app
from recommendation_service.policies.evidence import MOST_VERSIONS, EvidenceFiles, Look
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import PolicyStore

LOOK = Look("2026-11-01", "the gate", "base", "open", "Nothing yet.", 500, 60, 0.99, 1.0, 0.1, -0.1, 0.3, 450.0, 3.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PolicyStore:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return PolicyStore(tmp_path / "policies", 3)


def publish(store: PolicyStore) -> str:
    return store.publish(read_policy_file(None), None, Deed(datetime(2026, 11, 1, tzinfo=UTC), "ana", "a test"))


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["policy", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_look_is_shown_with_its_version(store: PolicyStore) -> None:
    version = publish(store)
    for verdict, feeds in (("open", 500), ("better", 1_000)):
        EvidenceFiles(store.folder).add(version, dataclasses.replace(LOOK, verdict=verdict, feeds=feeds))
    found = json.loads(run("evidence", version, "--json"))
    assert found["on_disk"] is True
    assert [(look["verdict"], look["feeds"]) for look in found["looks"]] == [("open", 500), ("better", 1_000)]
    assert "1,000" in run("evidence", version)
    assert json.loads(run("show", version, "--json"))["evidence"] == found["looks"]
    assert "Nothing yet." in run("show", version)
    [listed] = json.loads(run("list", "--json"))["versions"]
    assert listed["verdict"] == "better"
    assert "current, better" in run("list")


def test_the_evidence_of_a_version_that_is_gone_stays(store: PolicyStore) -> None:
    version = publish(store)
    EvidenceFiles(store.folder).add(version, LOOK)
    shutil.rmtree(store.folder / version)
    assert json.loads(run("evidence", version, "--json"))["on_disk"] is False
    assert "not on disk any more" in run("evidence", version)


def test_what_was_never_weighed_says_so_and_what_never_was_is_an_error(store: PolicyStore) -> None:
    version = publish(store)
    assert "LEARN_PROMOTION is off" in run("evidence", version)
    done = CliRunner().invoke(app, ["policy", "evidence", "nobody"])
    assert done.exit_code != 0


def test_the_newest_versions_evidence_is_kept(tmp_path: Path) -> None:
    files = EvidenceFiles(tmp_path)
    for number in range(MOST_VERSIONS + 3):
        files.add(f"{number:04d}", LOOK)
    assert files.of("0002") == []
    assert files.of("0003") == [LOOK]

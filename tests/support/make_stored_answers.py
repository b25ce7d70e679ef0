"""Makes tests/support/answers_5484959.json.xz: feeds of the demo as the release at commit 5484959 ranked them.

    git worktree add ../old 5484959 && cd ../old && make setup
    .venv/bin/python ../HERE/tests/support/make_stored_answers.py ../HERE/tests/support/answers_5484959.json.xz

It is run in that release's checkout, with its modules and the policy that it shipped, starting-1.
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))

import numpy as np
from recommendation_service.ranking.policy import Policy, load_policy
from sqlalchemy import NullPool, create_engine

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.demo import load_invented
from recommendation_service.feed.pipeline import FeedPipeline, FeedRequest, Outsider
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.ranking.working_memory import SLOTS

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SCALE = 0.1
SEED = 11
EXACT_UP_TO = 40  # videos of a catalog that counts as large
ENDPOINTS = ("total", "discover", "flow")
TEXTS = (("python", "excel"), ("marketing",), ("figma",), ("inglés", "english"))


def main(output: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/demo.sqlite"
        load_invented(create_engine(database, poolclass=NullPool), scale=SCALE, now=NOW)
        settings = load_settings(data_dir=Path(folder), database_url=database)
        text = Path("recommendation_service/policies/starting.toml").read_text("utf-8")
        pruned = Path(folder) / "pruned.toml"
        pruned.write_text(text.replace("exact_up_to_videos = 8000", f"exact_up_to_videos = {EXACT_UP_TO}"))
        stored = {
            "now": NOW.isoformat(),
            "scale": SCALE,
            "seed": SEED,
            "policy": text,
            "exact_up_to_videos": EXACT_UP_TO,
            "exact": all_answers(settings, load_policy()),
            "pruned": all_answers(settings, load_policy(pruned))[::4],
        }
    output.write_bytes(lzma.compress(json.dumps(stored, separators=(",", ":")).encode()))


def all_answers(settings: Settings, policy: Policy) -> list[dict[str, Any]]:
    engine = create_engine(settings.database_url.get_secret_value())
    built = build_catalog(Source(engine, settings), settings, policy, NOW)
    store = CatalogStore(settings.catalog_dir, keep=1)
    pipeline = FeedPipeline(store.open(store.publish(built)), policy, SEED)
    answers = [answered(pipeline, asked) for asked in requests(pipeline)]
    for asked in [again(answers[place], place) for place in range(0, len(answers), 4)]:
        answers.append(answered(pipeline, asked, answers))
    for answer in answers:
        del answer["remembered"]
    return answers


def requests(pipeline: FeedPipeline) -> list[dict[str, Any]]:
    """Known users with much and little history and with a network, some who are nobody's, anonymous ones, some with
    exclusions, and some whom only the tables know."""
    arrays = pipeline.catalog.arrays
    sizes = np.diff(arrays.history_offsets)
    connected = np.nonzero(arrays.connections)[0]
    rows = [*np.argsort(-sizes, kind="stable")[:6], *np.nonzero(sizes == 1)[0][:3], *connected[:4]]
    rows += [*np.nonzero((sizes == 0) & (np.diff(arrays.profile_offsets) > 0))[0][:3]]
    keys = [int(key) for key in sorted(arrays.hash_key[arrays.hash_key >= 0])]
    users = [*arrays.user_id[rows].tolist(), 0, 0, 99_999_999]
    asked: list[dict[str, Any]] = [
        {
            "endpoint": endpoint,
            "user": user,
            "size": (24, 7, 60)[place % 3],
            "request": f"{place}-{endpoint}",
            "excluded": [key >> 1 for key in keys[place::40]] if place % 2 else [],
        }
        for place, user in enumerate(users)
        for endpoint in ENDPOINTS
    ]
    outsider = {
        "history": [[key, int(NOW.timestamp()) - 86400 * (1 + place)] for place, key in enumerate(keys[3::90])],
        "network": arrays.creator_id[:5].tolist(), "connections": 5, "attributes": TEXTS,
    }  # fmt: skip
    common = {"user": 99_999_998, "size": 24, "excluded": [], "outsider": outsider}
    return asked + [common | {"endpoint": endpoint, "request": f"outsider-{endpoint}"} for endpoint in ENDPOINTS]


def again(answer: dict[str, Any], place: int) -> dict[str, Any]:
    """The same, of somebody who has seen that."""
    kept = {name: answer[name] for name in ("endpoint", "user", "size", "excluded", "outsider") if name in answer}
    return kept | {"request": f"again-{place}", "after": place}


def answered(
    pipeline: FeedPipeline, asked: dict[str, Any], before: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    said = asked.get("outsider")
    outsider = None
    if said is not None:
        outsider = Outsider(
            np.array(said["history"], np.int64), np.array(said["network"], np.int64), said["connections"],
            pipeline.token_numbers(said["attributes"]),
        )  # fmt: skip
    request = FeedRequest(
        asked["endpoint"], asked["user"], asked["size"], asked["request"], np.array(asked["excluded"], np.int64),
        now=int(NOW.timestamp()), session=5, outsider=outsider,
    )  # fmt: skip
    pipeline.rank(request, before[asked["after"]]["remembered"] if before else b"")
    memory = pipeline.memory
    slots = int(memory.counts[SLOTS])
    return asked | {
        "keys": memory.slot_key[:slots].tolist(), "propensities": memory.slot_propensity[:slots].tolist(),
        "relaxed": pipeline.relaxed(), "remembered": pipeline.remembered(),
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))

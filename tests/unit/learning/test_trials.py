"""What is better by construction is promoted with its evidence, what is worse is not, and what was promoted by mistake
falls back: on real feeds of real policies, read from a real log."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommendation_service.core.config import Settings
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.learning.format import load_learning
from recommendation_service.learning.learner import Learner
from recommendation_service.learning.person import pending_of
from recommendation_service.learning.trials import BY_GATE, Trials
from recommendation_service.log.decisions import DecisionRecord, DecisionWriter
from recommendation_service.log.forgotten import note_forgotten
from recommendation_service.log.records import FeedRecord, decode, encode_feeds
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.policies.evidence import EvidenceFiles, Look
from recommendation_service.policies.experiment import LIVE
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import Learned, load_policy, read_policy_file
from recommendation_service.policies.store import BY_LEARNER, PolicyStore
from recommendation_service.serving.recording import record_of
from tests.support.catalogs import make_catalog
from tests.support.events import HAPPENED_MS, feedback, write_segment
from tests.support.policies import FEATURES
from tests.support.slates import request_for
from tests.support.worlds import random_world

CATALOG = make_catalog(random_world(5, videos=300, challenges=40, users=8))
FILE = load_learning()
LIKED = 11  # of the features, the one that people like
MIDDLE = float(np.median(CATALOG.arrays.features[: CATALOG.arrays.worded, LIKED]))
PEOPLE = 150
SLOTS = 2
FEEDS = 1_000
MATCH_IF_LIKED, MATCH_ELSE = 0.6, 0.05
DEED = Deed(datetime(2026, 11, 1, tzinfo=UTC), "ana", "a test")
BETTER, WORSE = 4.0, -4.0  # by how much the liked feature counts more


class World:
    """A folder with a policy that serves, others in its shadow, and people who like one feature."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        given = {"learner": "shadow", "learn_promotion": "gated", "learn_trial_feeds": FEEDS, "learn_live_share": 0}
        given |= settings
        self.settings = Settings(data_dir=folder, **given)  # type: ignore[arg-type]
        self.store = PolicyStore(self.settings.policy_dir, self.settings.policy_keep)
        self.draw = np.random.default_rng(1)
        self.now_ms = HAPPENED_MS
        self.made = 0
        self.base = self.publish(0.0, "ana", aside=False)

    def publish(self, liking: float, who: str = BY_LEARNER, *, aside: bool = True) -> str:
        theta = load_policy().arrays.theta.copy()
        theta[:, LIKED] += liking
        A = np.broadcast_to(np.eye(FEATURES) * 1e4, (len(KINDS), FEATURES, FEATURES)).copy()
        deed = DEED._replace(who=who, moment=datetime.fromtimestamp(self.now_ms / 1000 + self.made, UTC))
        self.made += 1
        return self.store.publish(read_policy_file(None), Learned(theta, A), deed, aside=aside)

    def shadow(self, *versions: str) -> None:
        self.store.shadow(versions, DEED)

    def serve(self, feeds: int, *, decisions: bool = False, arm: str = "") -> None:
        """To people, who match with what they like; into the log. ``arm``: all are of one of an experiment's."""
        writer = DecisionWriter(self.settings.decisions_dir, 1 << 28)
        named = PolicyChoice(self.settings).take_up()
        share = self.settings.learn_live_share
        generation = Generation(CATALOG, named.policy, named.shadows, live=named.live, live_share=share)
        serves = FeedPipeline(generation)
        records: list[Any] = []
        for _ in range(feeds):
            self.made += 1
            self.now_ms += 10
            request = request_for(1 + self.made % PEOPLE, "discover", SLOTS, f"{self.made:032x}")
            other = serves.live.of(request.request_id) if serves.live is not None and not arm else None
            pipeline, made_as = (serves, arm) if other is None else (other, LIVE)
            slate = pipeline.rank(request.but(happened_ms=self.now_ms), b"", lambda *_: decisions)
            if decisions:
                names, seed = (slate.catalog_version, slate.policy_version), slate.seed
                writer.append(
                    DecisionRecord(b"0" * 16, 1, 1, self.now_ms, SLOTS, *names, seed, True, 1.0, slate.decision)
                )
            [payload] = encode_feeds([record_of(slate, made_as)])
            record = decode(payload)
            assert isinstance(record, FeedRecord)
            records += [payload, *self._reactions(record, pipeline.memory.slot_X[LIKED, :SLOTS])]
        writer.close()
        write_segment(self.settings.events_dir, records)

    def _reactions(self, record: FeedRecord, liked: np.ndarray[Any, Any]) -> list[Any]:
        found = []
        items = [item for item, _ in record.shown()]
        for place, value in enumerate(liked):
            if self.draw.random() < (MATCH_IF_LIKED if value > MIDDLE else MATCH_ELSE):
                item = items[place]
                given = {"item_type": item & 1, "item_id": item >> 1, "request_id": record.request_id.hex()}
                times = {"happened_ms": record.happened_ms + 10, "received_ms": record.happened_ms + 20}
                found.append(feedback(event="match", user_id=record.user_id, **given, **times))
        return found

    def learn(self) -> Learner:
        self.now_ms += FILE.settle_ms + 1
        learner = Learner(self.settings, FILE, lambda: self.now_ms / 1000)
        try:
            while learner.step():
                pass
            learner.look()
            learner.tell()
        finally:
            learner.close()
        return learner

    def evidence(self, version: str) -> list[Look]:
        return EvidenceFiles(self.store.folder).of(version)

    def by_gate(self) -> list[tuple[str, str | None]]:
        return [(entry.did, entry.version) for entry in self.store.journal.entries() if entry.who == BY_GATE]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_better_by_construction_is_promoted_with_its_evidence_and_what_is_worse_is_not(world: World) -> None:
    better, worse = world.publish(BETTER), world.publish(WORSE, "ana")
    world.shadow(worse, better)
    world.serve(FEEDS)
    learner = world.learn()

    assert world.store.current() == better
    assert world.by_gate() == [("promote", better)]
    [entry] = [entry for entry in world.store.journal.entries() if entry.who == BY_GATE]
    look = world.evidence(better)[-1]
    assert look.words in entry.why
    assert (look.verdict, look.against, look.feeds, look.users) == ("better", world.base, FEEDS, PEOPLE)
    assert look.lower is not None
    assert look.lower > 0
    assert look.effective_sample_size >= 300
    assert [look.verdict for look in world.evidence(worse)] == ["worse"]
    assert learner.status.gate == {"better": 1, "worse": 1, "promoted": 1}
    assert world.store.shadows() == (worse, world.base), (
        "what people named stays, and the way back is weighed from now on"
    )


def test_what_was_made_worse_and_served_by_a_person_falls_back(world: World) -> None:
    worse = world.publish(WORSE)
    world.store.promote(worse, DEED)
    world.learn()
    assert world.store.shadows() == (world.base,), "the way back"
    world.serve(FEEDS)
    learner = world.learn()

    assert world.store.current() == world.base
    assert world.by_gate() == [("rollback", world.base)]
    assert learner.status.gate["returned"] == 1
    assert [look.verdict for look in world.evidence(world.base)] == ["better"]


def test_the_learners_candidate_that_is_worse_gives_way(world: World) -> None:
    world.shadow(world.publish(WORSE))
    world.serve(FEEDS)
    world.learn()
    assert world.store.current() == world.base
    assert world.store.shadows() == ()
    assert world.by_gate() == []


def test_in_the_shadow_only_verdicts_are_given(tmp_path: Path) -> None:
    world = World(tmp_path, learn_promotion="shadow", learn_trial_feeds=2 * FEEDS)
    better = world.publish(BETTER)
    world.shadow(better)
    world.serve(FEEDS)
    world.learn()
    assert [look.verdict for look in world.evidence(better)] == ["better"]
    assert (world.store.current(), world.store.shadows()) == (world.base, (better,))


def test_without_the_gate_nothing_is_weighed_or_kept(tmp_path: Path) -> None:
    world = World(tmp_path, learn_promotion="off")
    better = world.publish(BETTER)
    world.shadow(better)
    world.serve(50)
    learner = world.learn()
    assert learner.status.gate == {}
    assert world.evidence(better) == []
    assert world.store.shadows() == (better,)


def test_one_looks_as_often_as_is_planned_whatever_the_clock_does_and_whoever_dies(tmp_path: Path) -> None:
    world = World(tmp_path, learn_trial_feeds=4 * 500)
    same = world.publish(0.001)
    world.shadow(same)
    for jump in (0, -3_600_000, +7_200_000, -3_600_000):
        world.serve(250)
        world.learn()
        world.now_ms += jump
    assert [look.feeds for look in world.evidence(same)] == [500, 1_000]
    assert {look.verdict for look in world.evidence(same)} == {"open"}
    assert world.store.shadows() == (same,)


def test_what_is_pinned_stays_and_the_gate_says_why(world: World) -> None:
    better = world.publish(BETTER)
    world.shadow(better)
    world.store.pin(world.base, DEED)
    world.serve(FEEDS)
    learner = world.learn()
    assert world.store.current() == world.base
    assert learner.status.trial is not None
    assert "was pinned by ana" in learner.status.trial


def test_of_two_who_promote_at_once_the_gate_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    better, other = world.publish(BETTER), world.publish(0.5, "ana")
    world.shadow(better)
    world.serve(FEEDS)
    judged = Trials._judge

    def meanwhile(trials: Trials, *arguments: Any) -> Look:
        look = judged(trials, *arguments)
        world.store.promote(other, DEED)
        return look

    monkeypatch.setattr(Trials, "_judge", meanwhile)
    learner = world.learn()
    assert world.store.current() == other
    assert world.by_gate() == []
    assert learner.status.trial is not None
    assert f"the current version is {other}, not {world.base}" in learner.status.trial


def test_a_version_that_is_gone_is_not_weighed_any_more_and_its_evidence_stays(world: World) -> None:
    worse = world.publish(WORSE)
    world.shadow(worse)
    world.serve(FEEDS)
    world.learn()
    gone = world.publish(BETTER)
    world.shadow(gone)
    world.serve(FEEDS // 2)
    for version in (worse, gone):
        shutil.rmtree(world.store.folder / version)
    world.learn()
    assert world.store.shadows() == ()
    assert world.store.current() == world.base
    assert [look.verdict for look in world.evidence(worse)] == ["worse"]


def test_what_is_not_finite_is_refused(world: World) -> None:
    better = world.publish(BETTER)
    world.shadow(better)
    world.serve(FEEDS)
    learner = Learner(world.settings, FILE, lambda: (world.now_ms + FILE.settle_ms + 1) / 1000)
    try:
        while learner.step():
            pass
        nothing = np.full(SLOTS, np.nan, np.float32).tobytes()
        with learner.ledger.step():
            learner.ledger._database.execute("UPDATE weighed SET target = ? WHERE happened % 100 = 0", (nothing,))
        learner.look()
    finally:
        learner.close()
    [look] = world.evidence(better)
    assert look.verdict == "refused"
    assert "nan" in look.words
    assert world.store.current() == world.base


def test_a_forgotten_users_feeds_are_not_weighed(world: World) -> None:
    world.shadow(world.publish(BETTER))
    world.serve(PEOPLE)
    world.learn()
    assert pending_of(world.settings.learning_dir, 7, None)["weighed_feeds"] == 1
    note_forgotten(world.settings.events_dir, 7, world.now_ms)
    world.learn()
    learner = Learner(world.settings, FILE, lambda: world.now_ms / 1000)
    weighed = learner.ledger.weighed.counts(world.base)
    learner.close()
    assert list(weighed.values()) == [PEOPLE - 1]
    assert pending_of(world.settings.learning_dir, 7, None)["weighed_feeds"] == 0


def test_evidence_that_is_cut_is_passed_over(tmp_path: Path) -> None:
    files = EvidenceFiles(tmp_path)
    look = Look("2026", "the gate", "a", "open", "Nothing.", 500, 60, 0.99, 1.0, None, None, None, 1.0, 2.0)
    files.add("v", look)
    path = next((tmp_path / "evidence").iterdir())
    path.write_bytes(path.read_bytes() + json.dumps(dataclasses.asdict(look)).encode()[:40])
    files.add("v", dataclasses.replace(look, feeds=1_000))
    assert [one.feeds for one in files.of("v")] == [500, 1_000]
    assert files.of("../v") == files.of("v")
    assert files.of("none") == []


def publish(world: World) -> str:
    world.now_ms += FILE.settle_ms + 1
    learner = Learner(world.settings, FILE, lambda: world.now_ms / 1000)
    try:
        learner.learn_all()
    finally:
        learner.close()
    assert learner.totals.version is not None
    return learner.totals.version


def test_one_candidate_is_tried_at_a_time_and_stays_where_nothing_says_what_to_expect_of_another(world: World) -> None:
    """Without decisions."""
    world.serve(300)
    first = publish(world)
    assert world.store.shadows() == (first,)
    world.serve(100)
    second = publish(world)
    assert second != first
    assert world.store.shadows() == (first,)
    assert world.store.current() == world.base


def test_what_is_learned_meanwhile_takes_the_candidates_place_and_its_evidence_counts_on(tmp_path: Path) -> None:
    """As of one policy that learns: no look is made twice, and none of its feeds is lost, also of those made late."""
    world = World(tmp_path, learn_trial_feeds=16 * 500)
    old = world.publish(-0.2)
    world.shadow(old)
    world.serve(600, decisions=True)
    world.learn()
    assert [look.feeds for look in world.evidence(old)] == [500]
    new = publish(world)
    assert new != old
    assert world.store.shadows() == (new,)
    world.serve(100)
    world.shadow(old)  # a worker that has not taken up the new one yet
    world.serve(100)
    world.shadow(new)
    world.serve(300)
    learner = world.learn()
    assert [look.feeds for look in world.evidence(new)] == [1_000]
    assert learner.status.trial is not None
    assert f"{new} with 1 before it is weighed on 1,100 feeds of {world.base}" in learner.status.trial


def take_its_place(world: World, version: str) -> None:
    learner = Learner(world.settings, FILE, lambda: world.now_ms / 1000)
    Trials(world.settings, learner.ledger, world.store).try_out(version, world.now_ms / 1000)
    learner.close()


def test_of_a_series_that_is_better_the_newest_is_promoted_and_the_next_begins_anew(world: World) -> None:
    old = world.publish(BETTER)
    world.shadow(old)
    world.serve(FEEDS // 2 - 50)
    world.learn()
    new = world.publish(1.1 * BETTER)
    take_its_place(world, new)
    world.serve(FEEDS // 2 + 50)
    world.learn()
    assert world.evidence(old) == []
    assert [look.feeds for look in world.evidence(new)] == [FEEDS]
    assert world.store.current() == new
    [entry] = [entry for entry in world.store.journal.entries() if entry.who == BY_GATE]
    assert f"Of {FEEDS:,} feeds of {world.base} with 1 before it." in entry.why
    learner = Learner(world.settings, FILE, lambda: world.now_ms / 1000)
    series = learner.ledger.weighed.series(new)
    learner.close()
    assert series == [new], "what is not weighed any more is nobody's series"


def test_a_series_that_is_worse_gives_way_and_what_comes_next_has_no_part_in_its_evidence(world: World) -> None:
    old = world.publish(WORSE)
    world.shadow(old)
    world.serve(FEEDS // 2 - 100)
    world.learn()
    new = world.publish(WORSE)
    take_its_place(world, new)
    world.serve(FEEDS // 2 + 100)
    world.learn()
    assert [look.verdict for look in world.evidence(new)] == ["worse"]
    assert world.store.shadows() == ()
    next_one = publish(world)
    assert world.store.shadows() == (next_one,)
    world.serve(100)
    learner = world.learn()
    assert learner.status.trial is not None
    assert f"{next_one} is weighed on 100 feeds" in learner.status.trial


def test_there_is_a_version_to_go_back_to_before_one_is_promoted(world: World) -> None:
    world.serve(300)
    shutil.rmtree(world.store.folder)
    candidate = publish(world)
    [base] = [version for version in world.store.versions() if version != candidate]
    assert (world.store.current(), world.store.shadows()) == (base, (candidate,))
    assert world.store.manifest(base)["why"] == "what was served before"


def test_a_candidate_is_no_further_away_than_its_feeds_can_tell(world: World) -> None:
    """The posterior is beyond that, so the candidate is on the way to it; and its feeds are worth what was said."""
    world.serve(600, decisions=True)
    world.settings = world.settings.model_copy(update={"learn_step_support": 0.5})
    candidate = publish(world)
    assert "of the way from" in world.store.manifest(candidate)["why"]
    world.serve(FEEDS)
    world.learn()
    [look] = world.evidence(candidate)
    assert 0.35 * FEEDS < look.effective_sample_size < 0.75 * FEEDS


FAR = 60.0  # what serves would hardly ever make such a feed


def test_what_is_far_away_is_promoted_by_the_feeds_that_it_makes_itself_and_by_no_others(tmp_path: Path) -> None:
    in_shadow, live = World(tmp_path / "shadow"), World(tmp_path / "live", learn_live_share=0.3)
    for world in (in_shadow, live):
        far = world.publish(FAR)
        world.shadow(far)
        world.serve(2 * FEEDS)
        world.learn()
        assert world.evidence(far)[-1].against == world.base
        if world is live:
            [look] = [look for look in world.evidence(far) if look.verdict == "better"]
            assert world.store.current() == far
            assert 0.2 * look.feeds < look.effective_sample_size < 0.5 * look.feeds
            assert look.largest_weight < 1 / 0.25
        else:
            assert world.evidence(far)[-1].effective_sample_size < 100
            assert world.store.current() == world.base


def test_what_is_far_worse_and_was_served_by_a_person_falls_back(tmp_path: Path) -> None:
    world = World(tmp_path, learn_live_share=0.3)
    worse = world.publish(-FAR)
    world.store.promote(worse, DEED)
    world.learn()
    world.serve(2 * FEEDS)
    world.learn()
    assert world.store.current() == world.base
    assert world.by_gate() == [("rollback", world.base)]


def test_what_is_weighed_for_people_and_what_serves_no_more_makes_no_feeds(tmp_path: Path) -> None:
    world = World(tmp_path, learn_live_share=0.3)
    own, peoples = world.publish(BETTER), world.publish(BETTER, "ana")
    world.shadow(peoples, own)
    assert [policy.version for policy in PolicyChoice(world.settings).take_up().live] == [own]
    for others in ({"learn_promotion": "shadow"}, {"learn_live_share": 0.0}):
        settings = world.settings.model_copy(update=others)
        assert PolicyChoice(settings).take_up().live == ()
    world.store.promote(own, DEED)
    world.shadow(peoples, world.base)
    assert [policy.version for policy in PolicyChoice(world.settings).take_up().live] == [world.base]


def test_feeds_that_a_live_version_made_are_no_evidence_once_it_serves(tmp_path: Path) -> None:
    """They are of a trial that it won: what would go back is weighed on others."""
    world = World(tmp_path, learn_live_share=0.3)
    better = world.publish(BETTER)
    world.shadow(better)
    world.serve(FEEDS)
    world.learn()
    assert world.store.current() == better
    learner = Learner(world.settings, FILE, lambda: world.now_ms / 1000)
    counts = learner.ledger.weighed.counts(better)
    learner.close()
    assert counts == {}


def test_what_was_made_before_a_version_made_any_or_in_an_experiment_is_no_evidence_of_the_mixture(
    tmp_path: Path,
) -> None:
    """Feeds that it could not have made: times differ, and what they bring is no gain of the version's."""
    world = World(tmp_path)
    better = world.publish(BETTER)
    world.shadow(better)
    world.serve(200)
    world.learn()
    world.settings = world.settings.model_copy(update={"learn_live_share": 0.3})
    world.serve(100, arm="control")
    world.serve(100)
    world.learn()
    learner = Learner(world.settings, FILE, lambda: world.now_ms / 1000)
    weighed = learner.ledger.weighed.feeds(world.base, better, FEEDS)
    learner.close()
    assert 90 <= weighed.logged.feeds <= 100, "those before the first that it made are not there"
    assert weighed.live_share == pytest.approx(0.3, abs=0.15)


def test_a_ledger_of_before_there_were_live_versions_is_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    better = world.publish(BETTER)
    world.shadow(better)
    world.serve(FEEDS // 2 - 1)
    world.learn()
    with closing(sqlite3.connect(world.settings.learning_dir / "learned.sqlite")) as database, database:
        database.execute("ALTER TABLE weighed DROP COLUMN live")
    world.serve(FEEDS // 2 + 1)
    world.learn()
    assert world.store.current() == better

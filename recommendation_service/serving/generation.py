"""What a worker serves from: the current catalog and policy, taken up without a restart or a slow request."""

import asyncio
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import structlog

from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import CatalogError, NotReady, Overloaded
from recommendation_service.editors.rulings import Ruling
from recommendation_service.feed.generation import Generation, misfit
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.memory.user_memory import lifetimes_of
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.policies.policy import Policy
from recommendation_service.processes.registry import REFRESHER
from recommendation_service.processes.supervision import ProcessSupervisor
from recommendation_service.ranking.kept_pools import drop_of_user, make_slots
from recommendation_service.sources.blacklist import missing_blacklist
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

# How often a worker looks whether CURRENT names another version: a read of 30 bytes.
WATCH_SECONDS = 0.25
# Looks in a row that find the event loop behind before feeds are refused: one alone is a pause of the machine, after
# which every request that waited is answered in less time than its client would need to ask again.
LOOKS_BEHIND = 2


class Serving:
    """Holds the pipeline of the version in use. One event loop uses it; opening happens in a thread."""

    def __init__(
        self,
        settings: Settings,
        store: CatalogStore,
        policies: PolicyChoice,
        metrics: Metrics,
        clock: Clock | None = None,
        supervisors: Mapping[str, ProcessSupervisor] | None = None,
    ) -> None:
        """``supervisors``: of leased processes, by their names."""
        self._settings = settings
        self._store = store
        self._policies = policies
        self._metrics = metrics
        self.clock = clock or Clock()
        self.lifetimes = lifetimes_of(settings)
        self.supervisors = supervisors or {}
        self.waiting: dict[str, str] = {}  # what a first start has to do before a feed, in words
        self.wrong_place: str | None = None  # why nothing may be served from DATA_DIR, nor written to it
        self.rulings: tuple[Ruling, ...] = ()  # of editors, that hold now
        self._kept_slots = make_slots(settings.kept_pools_megabytes)  # before workers are forked, who share it
        self._pipeline: FeedPipeline | None = None
        self._refused: str | None = None
        self._refused_reason = ""
        self._misfit: tuple[str, str] | None = None  # catalog and policy that are named and do not go together
        self._misfit_reason = ""
        self._unlisted = ""  # why what was built without a blacklist is not served
        self._looks_behind = 0
        self._of_stage = cache(lambda stage: (metrics.stage_seconds.labels(stage), metrics.stage_items.labels(stage)))
        self._loading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "catalog")

    def drop_pools(self, user_id: int) -> None:
        """What is kept of a user for the next feeds, of all workers."""
        if self._pipeline is not None and (row := self._pipeline.user_row(user_id)) >= 0:
            drop_of_user(self._kept_slots, row)

    @property
    def catalog(self) -> Catalog | None:
        return self._pipeline.catalog if self._pipeline else None

    @property
    def policy(self) -> Policy:
        """The one that is served, or will be once there is a catalog."""
        return self._pipeline.policy if self._pipeline else self._policies.policy

    @property
    def policy_problems(self) -> list[str]:
        """Why policy versions that are to be served, or to be shadows, are not."""
        return [*self._policies.problems, *([self._misfit_reason] if self._misfit else [])]

    def kept_policy(self, version: str) -> Policy | None:
        """The policy of a feed that was served, where it is there still. Reads some files."""
        return self.policy if version == self.policy.version else self._policies.kept(version)

    async def ready_pipeline(self) -> FeedPipeline:
        """Raises NotReady before the first catalog, and Overloaded while the worker stays far behind."""
        pipeline = self._pipeline or await self._first_pipeline()
        if self.wrong_place is not None:
            self.check_place()
        if self._looks_behind >= LOOKS_BEHIND:
            raise Overloaded("The service is at its limit.", retry_after_seconds=2)
        return pipeline

    async def ready_generation(self) -> Generation:
        """A worker that is behind is ready all the same. Raises NotReady before the first catalog."""
        self.check_place()
        return (self._pipeline or await self._first_pipeline()).generation

    def check_place(self) -> None:
        """Raises NotReady where DATA_DIR is another database's."""
        if self.wrong_place is not None:
            raise NotReady(self.wrong_place, retry_after_seconds=15)

    async def _first_pipeline(self) -> FeedPipeline:
        """Another worker may have told a client that the service is ready while this one has not looked yet: then
        the request waits for this one."""
        await self.take_up_current()
        if self._pipeline is None:
            raise NotReady(self.why_not_ready(), retry_after_seconds=2)
        return self._pipeline

    def why_not_ready(self) -> str:
        """Why no feed can be served."""
        if self.waiting:
            return " ".join(self.waiting.values())
        if self._unlisted:
            return f"No catalog yet: {self._unlisted}"
        if self._refused:
            return self._refused_reason
        supervisor = self.supervisors.get(REFRESHER.name)
        problem = supervisor.problem if supervisor else ""
        error = problem or refresher_status(self._store).get("error")
        return f"No catalog yet: {error}" if error else "No catalog yet: the first one is being built."

    async def take_up_current(self) -> None:
        """``load_current`` off the event loop, once however many ask; at a first start not before it can."""
        if self.waiting:
            return
        async with self._loading:
            if self._is_due():
                await asyncio.get_running_loop().run_in_executor(self._thread, self.load_current)

    def _is_due(self) -> bool:
        """Whether a catalog or a policy is named that was not looked at yet: reads of some bytes."""
        version, pipeline = self._store.current(), self._pipeline
        if version not in (None, self._refused) and (pipeline is None or version != pipeline.catalog.version):
            return True
        return self._policies.is_changed() or (pipeline is not None and not self._is_latest(pipeline.generation))

    def _is_latest(self, generation: Generation) -> bool:
        """Whether it has the policies that are named, or these do not go with its catalog."""
        if self._misfit == (generation.catalog.version, self._policies.policy.version):
            return True
        named = self._policies
        return generation.policy is named.policy and generation[2:6] == (
            *(named.shadows, named.experiment),
            *(named.arms, named.live),
        )

    def load_current(self) -> bool:
        """Open the catalog and the policy that are named, where they are new and whole; else serve on from what is
        loaded.

        Reads every byte once, to check it and to have it in memory: call it off the event loop.
        """
        started = time.perf_counter()
        if self._policies.is_changed():
            self._policies.take_up()
            self._refused = None  # a catalog that the policy before did not go with
        served = self._pipeline.generation if self._pipeline else None
        catalog = self._new_catalog() or (served.catalog if served else None)
        if catalog is None or (served and catalog is served.catalog and self._is_latest(served)):
            return False
        generation = self._fitting(catalog, served)
        if generation is None:
            return False
        generation = generation._replace(rulings=self.rulings)
        if generation == served:
            return False
        self._take_up(generation, started)
        return True

    def rule(self, rulings: tuple[Ruling, ...]) -> None:
        """Have what editors ruled hold from the next feed on. Between two feeds, and again once a generation that was
        being opened meanwhile is there."""
        self.rulings = rulings
        if self._pipeline is not None and self._pipeline.generation.rulings is not rulings:
            self._pipeline.rule(rulings)

    def _fitting(self, catalog: Catalog, served: Generation | None) -> Generation | None:
        """What to make feeds from: with the policy that is named, where the catalog has its features, else with the one
        that is served or, at a start, the one that ships. None: with none of them."""
        policy = self._policies.policy
        reason = misfit(catalog, policy)
        if not reason:
            self._misfit = None
            named, share = self._policies, self._settings.learn_live_share
            made = Generation(catalog, policy, named.shadows, live=named.live, live_share=share)
            return made.with_arms(named.experiment, named.arms)
        if self._misfit != (catalog.version, policy.version):
            self._misfit, self._misfit_reason = (catalog.version, policy.version), f"The {reason}."
            self._metrics.policy_refused.inc()
            log.error("policy refused", version=policy.version, reason=reason)
        other = served or Generation(catalog, self._policies.shipped)
        if not misfit(catalog, other.policy):
            return other._replace(catalog=catalog, experiment=None, arms=(), live=())
        self._refused, self._refused_reason = catalog.version, reason
        return None

    def _new_catalog(self) -> Catalog | None:
        """What CURRENT names, where it is not served yet and can be."""
        version = self._store.current()
        if version in (None, self._refused) or (self.catalog is not None and version == self.catalog.version):
            return None
        assert version is not None  # noqa: S101
        if self._pipeline is None and self._lacks_blacklist(version):
            return None
        try:
            catalog = self._store.open(version)
        except CatalogError as error:
            self._refused, self._refused_reason = version, str(error)
            self._metrics.catalog_refused.inc()
            log.error("catalog refused", version=version, reason=str(error))
            return self._previous_catalog(version) if self._pipeline is None else None
        self._refused = None
        return catalog

    def _lacks_blacklist(self, version: str) -> bool:
        """Whether it was built without a blacklist, and there is one now that nobody has been able to read."""
        missing = missing_blacklist(self._settings)
        if missing is not None:
            try:
                if blacklist_report(self._store.manifest(version)).get("was_read"):
                    missing = None  # by whoever builds
            except CatalogError:
                missing = None  # what opens it says so
        if missing is not None and missing != self._unlisted:
            log.error("no catalog is served", version=version, reason=missing)
        self._unlisted = missing or ""
        return missing is not None

    def _previous_catalog(self, damaged: str) -> Catalog | None:
        """At a start the current version may be damaged: the newest whole one before it serves."""
        for version in reversed(self._store.versions()):
            if version == damaged:
                continue
            try:
                return self._store.open(version)
            except CatalogError as error:
                log.error("catalog refused", version=version, reason=str(error))
        return None

    def _take_up(self, generation: Generation, started: float) -> None:
        catalog, policy = generation.catalog, generation.policy
        before = self._pipeline.generation if self._pipeline else None
        pipeline = FeedPipeline(
            generation,
            self._settings.feed_seed,
            self._observe_stage,
            self.lifetimes,
            needs_list=self._settings.not_personal_table is not None,
            kept_slots=self._kept_slots,
        )
        # The first feed loads machine code and touches the version's pages: nobody should wait for that.
        others = [one for of in (pipeline.arms, pipeline.live) if of is not None for one in of.pipelines]
        for each in {pipeline, *others}:
            for endpoint in each.policy.file.feeds:
                each.feed(FeedRequest(endpoint, 0, 24, "warm-up"))
        self._pipeline = pipeline
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        if not generation.fits:
            log.warning(
                "catalog was built with another policy; the next build is with this one", version=catalog.version
            )
        if before is None:
            counts = catalog.counts
            items = "videos" if "videos" in counts else "items"
            log.info(
                f"DataService inicializado: {counts['users']} users, {counts[items]} {items}, "
                f"{counts['interactions']} interactions"
            )
            log.info("RecommendationEngine inicializado", policy=policy.version)
        if before is None or before.catalog is not catalog:
            self._metrics.catalog_swaps.inc()
            log.info("catalog taken up", version=catalog.version, milliseconds=milliseconds)
        if before is not None and before.policy is not policy:
            self._metrics.policy_swaps.inc()
            log.info("policy taken up", version=policy.version, milliseconds=milliseconds)
        now, then = generation.experiment, before.experiment if before is not None else None
        if now != then:
            log.info("experiment taken up", name=now.name if now is not None else None, milliseconds=milliseconds)

    async def watch(self) -> None:
        """Take up new versions until cancelled, and note how far behind the event loop is."""
        while True:
            due = time.monotonic() + WATCH_SECONDS
            await asyncio.sleep(WATCH_SECONDS)
            self._note_behind(time.monotonic() - due)
            try:
                self.clock.follow()
                self._metrics.cpu.add()
                await self.take_up_current()
            except Exception:
                # What is being served goes on; the next look may go better.
                log.exception("catalog could not be taken up")

    def _note_behind(self, seconds: float) -> None:
        if seconds <= self._settings.shed_load_after_seconds:
            self._looks_behind = 0
            return
        self._looks_behind += 1
        if self._looks_behind == LOOKS_BEHIND:
            log.warning("feeds are refused until this worker has caught up", behind_seconds=round(seconds, 3))

    def _observe_stage(self, stage: str, seconds: float, items: int) -> None:
        taken, handled = self._of_stage(stage)
        taken.observe(seconds)
        handled.observe(items)


def blacklist_report(manifest: dict[str, Any]) -> dict[str, Any]:
    """Of a version's build; nothing of one that an earlier release built."""
    found = manifest["report"].get("blacklist")
    return found if isinstance(found, dict) else {}


def not_personal_report(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same of who is not personal."""
    found = manifest["report"].get("not_personal")
    return found if isinstance(found, dict) else {}


def refresher_status(store: CatalogStore) -> dict[str, Any]:
    """What the process that builds catalogs last said of itself."""
    try:
        status = json.loads((store.folder / REFRESHER.status_file).read_bytes())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}

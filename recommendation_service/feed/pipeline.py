"""From a request to the bytes of its feed, on one catalog version and one policy version."""

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.catalog.filter_columns import value_number
from recommendation_service.catalog.store import Catalog
from recommendation_service.core.errors import PolicyError
from recommendation_service.editors.rulings import Ruling
from recommendation_service.feed.arms import Arms, Live
from recommendation_service.feed.editorial import NO_PINS, NO_ROWS, NOTHING_RULED, Editorial, placed
from recommendation_service.feed.explain import Choice, choice_of, explained
from recommendation_service.feed.filters import Filters, Frames, Passing
from recommendation_service.feed.generation import Generation, misfit
from recommendation_service.feed.request import NO_IDS, AskedFilters, FeedRequest, Outsider
from recommendation_service.mappings.answers import IDS_FIELDS
from recommendation_service.model.columns import Bytes, CatalogArrays, hash_token
from recommendation_service.model.kinds import PINNED
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.compiled import entry_for
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.kept_pools import NO_SLOTS
from recommendation_service.ranking.places import find
from recommendation_service.ranking.request import ANONYMOUS_ROW, RankingRequest
from recommendation_service.ranking.seen import ENTRY_BYTES, Lifetimes
from recommendation_service.ranking.settled import FIRST_WORD, HEADS, SOURCE, WORD_BYTES, summarised
from recommendation_service.ranking.shadows import make_shadow_memory, stack_shadows, weigh_shadows
from recommendation_service.ranking.slate import RULES
from recommendation_service.ranking.slate_body import join_items, join_named_items
from recommendation_service.ranking.slate_decision import make_decision_memory, pack_decision
from recommendation_service.ranking.slate_withheld import collect_withheld, make_withheld_memory, pack_withheld
from recommendation_service.ranking.stages import STAGES, rank
from recommendation_service.ranking.summary import summarise
from recommendation_service.ranking.working_memory import (
    EXCLUDED,
    LARGEST_FEED,
    PACKED,
    RELAXED,
    REMEMBERED,
    SCANNED,
    SEEN_CAPACITY,
    SEEN_ITEMS,
    SLOTS,
    TOUCHED_ITEMS,
    make_working_memory,
)

_HEADS = {name: b'{"statusCode":200,"body":{"%b":[' % field.encode() for name, field in IDS_FIELDS.items()}
BODY_BYTES = 1 << 16  # room for an answer to begin with
WITHHELD_ITEMS = 1 << 10  # likewise for what a feed could not hold
SETTLES_FROM = 240 * ENTRY_BYTES  # what is remembered of a user has a summary from so much on, ...
SETTLES_MORE_FROM = 96 * ENTRY_BYTES  # ... which then takes up what came since, whenever that is so much
MOST_TOKENS_KNOWN = 4096  # that users outside the catalog had lately

_encode = msgspec.json.Encoder().encode

# Every so many feeds the stages are run one by one and timed; together they are one call.
TIMED_EVERY = 64

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
ObserveStage = Callable[[str, float, int], None]  # stage, seconds, items handled
ShadowPropensities = tuple[tuple[str, bytes], ...]
Wants = Callable[[FeedRequest, int], bool]  # whether the decision of a request with that seed is wanted


class Slate(msgspec.Struct, frozen=True, gc=False):
    """A feed that was ranked: what is in its n slots, and what it leaves.

    ``items``, ``keys`` and ``numbers`` are views, which hold until the pipeline's next feed; the rest is its own.
    """

    request: FeedRequest
    catalog_version: str
    policy_version: str
    seed: int
    items: Int32  # (n,) the catalog's rows
    keys: Int64  # (n,) the items as the log, the memory and the fleet name them
    numbers: Int64  # (n,) the operator's numbers of the items
    packed: bytes  # as a record has the slots, see ranking/packed_slots.py
    relaxed: list[str]  # names of the rules that gave way, in the order in which they do
    remembered: bytes  # what is to be remembered of the user from now on, as ranking/seen.py says, but for what settled
    choices: tuple[Choice, ...]  # where the request wants an explanation; else none
    decision: bytes  # what else the slots could have held, see ranking/slate_decision.py; empty where nobody wanted it
    withheld: bytes  # and what they could not, because of the request or the user, see withheld.py; empty likewise
    shadows: ShadowPropensities  # of each shadow its version, and its propensities: n float32
    pinned: int  # how many of the slots editors gave
    summary: bytes = b""  # of what was remembered before, where that has settled, as ranking/settled.py says


class FeedPipeline:
    """Not safe for several threads: a worker's event loop runs one feed at a time."""

    def __init__(
        self,
        generation: Generation,
        seed: int = 0,
        observe_stage: ObserveStage | None = None,
        lifetimes: Lifetimes = Lifetimes(),  # noqa: B008
        *,
        needs_list: bool = False,
        kept_slots: Int64 = NO_SLOTS,
    ) -> None:
        """``needs_list``: there should be a list of who is not personal; without one in the catalog nobody is.
        ``kept_slots``: where pools are kept from one feed of a user to the next.

        Raises PolicyError where the catalog lacks features that the policy adds."""
        if reason := misfit(generation.catalog, generation.policy):
            raise PolicyError(reason)
        self.generation = generation
        catalog, policy, shadows = generation[:3]
        options: dict[str, Any] = {"needs_list": needs_list, "kept_slots": kept_slots}
        self.catalog, self.policy = catalog, policy
        self.arms: Arms | None = None  # pipelines of the experiment that runs
        if generation.experiment is not None:
            made = {policy.version: self}
            for arm in generation.arms:
                if arm.version not in made:
                    of_arm = generation.of_arm(arm)
                    made[arm.version] = FeedPipeline(of_arm, seed, observe_stage, lifetimes, **options)
            self.arms = Arms(generation.experiment, [made[arm.version] for arm in generation.arms])
        self.live: Live | None = None  # pipelines of shadows that make feeds, too
        if generation.experiment is None and generation.live:
            others = [generation.of_live(policy) for policy in generation.live]
            self.live = Live(
                generation,
                [FeedPipeline(each, seed, observe_stage, lifetimes, **options) for each in others],
            )
        arrays = fitted(policy, catalog)
        memory = self.memory = make_working_memory(
            catalog.arrays, arrays, policy.file.rows_of_kinds(catalog.rows_of_type), kept_slots
        )
        memory.kept.source[0] = self._source(NO_ROWS)
        memory.lifetimes[:] = lifetimes
        self._needs_list = needs_list
        self._seed = seed
        self._observe_stage = observe_stage
        self._feeds = 0
        example = RankingRequest(ANONYMOUS_ROW, 1, 0, 0, NO_IDS)
        self._feed_numbers = {name: number for number, name in enumerate(policy.file.feeds)}
        self._frames = Frames.of(catalog.arrays, arrays, memory)
        self._frame = self._frames.personal
        self._rank = entry_for(rank, self._frame, example)
        self._stages = [(name, entry_for(stage, self._frame, example)) for name, stage in STAGES]
        self._counts = self.memory.counts.data
        self._seen = self.memory.seen_entries.data.cast("B")
        self._settled = self.memory.settled.words.data.cast("B")
        self._settles = _number_of(f"{catalog.version} {lifetimes}".encode())  # what summaries are for
        self._summarise = entry_for(summarise, self._frame, example)
        self._remembered = self.memory.remembered.data.cast("B")
        self._views: dict[int, tuple[Int32, Int64, Int64]] = {}  # by number of slots, what a slate has of the memory
        self._packed = self.memory.packing.packed.data.cast("B")
        self._decision = make_decision_memory(catalog.arrays, policy.arrays)
        self._decided_bytes = self._decision.packing.packed.data.cast("B")
        self._pack_decision = entry_for(pack_decision, self._frame, self._decision)
        self._withheld_items = make_withheld_memory(WITHHELD_ITEMS)
        self._collect = entry_for(collect_withheld, self._frame, self._decision, NO_IDS, 0, self._withheld_items)
        self._pack_withheld = entry_for(pack_withheld, self._withheld_items, 0)
        self._item_bytes = np.asarray(catalog.item_bytes)
        self._body = np.empty(BODY_BYTES, np.uint8)
        self._join = entry_for(
            join_items, self._item_bytes, catalog.item_offsets, memory.slot_item, memory.slot_number, 0, self._body
        )
        self._join_named = entry_for(
            join_named_items, self._item_bytes, catalog.item_offsets, memory.slot_item, 0, self._body
        )
        self._filters = Filters(catalog.filters, self._frames) if catalog.filters else None
        # What users' own rows say keeps items away, from feeds that are not personal, too.
        self.asks_of_users = any(column.users is not None for column in catalog.filters)
        self._laid: Passing | None = None  # what bars others by the flags
        self._barred_rows = NO_ROWS  # what editors do by them
        self._pins = NO_PINS  # that the memory has
        self.editorial: Editorial | None = None
        self._weigh_shadows = self._weigher(shadows) if shadows else None
        self._find = entry_for(find, catalog.arrays.user_id, 0, 0, 0)
        self._looked_up = (0, ANONYMOUS_ROW)  # a user, and the user's row
        self._token_number = lru_cache(MOST_TOKENS_KNOWN)(partial(_token_number, catalog.arrays))
        self.rule(generation.rulings)

    def rule(self, rulings: tuple[Ruling, ...]) -> None:
        """Have what editors ruled hold from the next feed on; ``rulings``: those that hold now."""
        found = placed(rulings, self.catalog)
        for each in {self, *(self.arms.pipelines if self.arms else ()), *(self.live.pipelines if self.live else ())}:
            each.generation = each.generation._replace(rulings=rulings)
            each.editorial = Editorial(found, each.catalog, each.policy) if rulings else None

    def feed(self, request: FeedRequest) -> bytes:
        """The body of the answer. Never fails for a valid request."""
        return self.render(self.rank(request))

    def rank(self, request: FeedRequest, seen: bytes = b"", wants_decision: Wants | None = None) -> Slate:
        """``seen``: what is remembered of the user, as ranking/seen.py says."""
        remembered = min(len(seen), len(self._seen))
        if remembered:
            self._seen[:remembered] = seen[-remembered:]
        seed = feed_seed(self._seed, request.user_id, request.request_id)
        wanted = wants_decision is not None and wants_decision(request, seed)
        ranked = self._run(request, seed, remembered // ENTRY_BYTES)
        if wanted:
            return self._slate(request, seed, self._withheld(request, ranked.seen), b"")
        settles = request.personal and remembered >= SETTLES_FROM
        return self._slate(request, seed, b"", self._summary(ranked) if settles else b"")

    def rank_since(
        self, request: FeedRequest, recent: bytes, summary: bytes, wants_decision: Wants | None = None
    ) -> Slate | None:
        """The same where what is remembered has settled but for the ``recent`` entries; None: it takes all of them."""
        entries, carried = summarised(summary, self._settles, request.now)
        if not 0 < entries <= SEEN_CAPACITY - LARGEST_FEED - len(recent) // ENTRY_BYTES or not recent:
            return None
        if request.explain or not request.personal or self.editorial is not None:
            return None
        seed = feed_seed(self._seed, request.user_id, request.request_id)
        if wants_decision is not None and wants_decision(request, seed):
            return None
        self._settled[: len(summary)] = summary
        start = carried * ENTRY_BYTES
        end = start + len(recent)
        self._seen[start:end] = recent
        ranked = self._run(request, seed, end // ENTRY_BYTES, is_settled=True)
        if self._counts[SEEN_ITEMS]:  # something seen had to come back: what was seen longest ago
            return None
        return self._slate(request, seed, b"", self._summary(ranked) if len(recent) >= SETTLES_MORE_FROM else b"")

    def _run(self, request: FeedRequest, seed: int, seen: int, *, is_settled: bool = False) -> RankingRequest:
        """Have the feed in the memory, where the first ``seen`` entries hold."""
        memory, outsider = self.memory, request.outsider
        row = self.user_row(request.user_id) if request.personal else ANONYMOUS_ROW
        history = network = tokens = connections = 0
        if outsider is not None and row < 0 and request.personal:
            history = _copy(outsider.history, memory.own_history)
            network = _copy(outsider.network, memory.own_network)
            tokens = _copy(outsider.tokens, memory.own_tokens)
            connections = outsider.connections
        ranking_request = RankingRequest(
            row,
            request.size,
            self._feed_numbers[request.endpoint],
            seed,
            request.excluded,
            request.now,
            request.session,
            seen,
            history,
            network,
            tokens,
            connections,
            is_settled,
        )
        passing = self._passing(request.filters, request.user_id, outsider) if self._filters is not None else None
        rows, pins = self.editorial.of(request.endpoint) if self.editorial is not None else NOTHING_RULED
        if passing is not self._laid or rows is not self._barred_rows:
            self._lay(passing, rows)
        if pins is not self._pins:
            memory.pinned[:] = self._pins = pins
        frames = self._frames
        if passing is not None:
            frames = passing.frames
            memory.settled.words[HEADS:FIRST_WORD] = 0  # its orderings may be others
        frame = frames.personal if request.personal else frames.impersonal
        self._feeds += 1
        if self._observe_stage is None or self._feeds % TIMED_EVERY:
            self._rank(frame, ranking_request)
        else:
            self._rank_by_stages(frame, ranking_request, self._observe_stage)
        return ranking_request

    def _summary(self, request: RankingRequest) -> bytes:
        """Of the entries of the feed that is in the memory; empty: they have not settled, or something else keeps items
        away as well."""
        is_alone = self.editorial is None and self._laid is None
        words = self._summarise(self._frame, request) if is_alone else 0
        if not words:
            return b""
        self.memory.settled.words[SOURCE] = self._settles
        return self._settled[: words * WORD_BYTES].tobytes()

    def barred(self, filters: AskedFilters, user_id: int, outsider: Outsider | None = None) -> Bytes | None:
        """(M,) not 0 where no list may have an item for a user who asks for that, by the filters and what editors took
        out everywhere; None: all may. ``outsider``: where the user is not in the catalog. To be read only."""
        passing = self._passing(filters, user_id, outsider)
        mask = passing.mask(len(self.memory.flags)) if passing is not None else None
        return mask if self.editorial is None else self.editorial.laid_over(mask)

    def _passing(self, filters: AskedFilters, user_id: int, outsider: Outsider | None) -> Passing | None:
        """What passes the filters; None: all items do."""
        if self._filters is None:
            return None
        row, asked = self.user_row(user_id), dict(filters)
        if row < 0 and outsider is not None:
            asked = dict(outsider.filters) | asked
        return self._filters.passing(asked, row)

    def _lay(self, passing: Passing | None, rows: Int32) -> None:
        """Lay the flags anew, where something else passes, or editors took out others, than in the feed before. The
        kernels clear the flags by what they noted of that, and note nothing of what was laid: so that is done here."""
        memory = self.memory
        touched = memory.touched_items[: memory.counts[TOUCHED_ITEMS]]
        memory.flags[touched] = 0
        memory.scored[touched] = 0
        memory.counts[TOUCHED_ITEMS] = 0
        if passing is not None:
            passing.lay(memory.flags)
        elif self._laid is not None:
            memory.flags[:] = 0
        else:
            memory.flags[self._barred_rows] = 0
        memory.flags[rows] = EXCLUDED
        if rows is not self._barred_rows:
            memory.kept.source[0] = self._source(rows)
        self._laid, self._barred_rows = passing, rows

    def _source(self, barred: Int32) -> int:
        """Names what pools are looked for in."""
        return _number_of(f"{self.catalog.version} {self.policy.pools_digest}".encode(), barred.tobytes())

    def _rank_by_stages(self, frame: Frame, request: RankingRequest, observe: ObserveStage) -> None:
        started = time.perf_counter()
        for name, stage in self._stages:
            stage(frame, request)
            ended = time.perf_counter()
            observe(name, ended - started, self._handled(name))
            started = ended

    def _slate(self, request: FeedRequest, seed: int, withheld: bytes, summary: bytes) -> Slate:
        """``withheld``: empty where no decision is wanted."""
        memory, counts = self.memory, self._counts
        slots, broken = counts[SLOTS], counts[RELAXED]
        views = self._views.get(slots)
        if views is None:
            views = self._views[slots] = memory.slot_item[:slots], memory.slot_key[:slots], memory.slot_number[:slots]
        return Slate(
            request,
            self.catalog.version,
            self.policy.version,
            seed,
            *views,
            self._packed[: counts[PACKED]].tobytes(),
            [rule for bit, rule in enumerate(RULES) if broken >> bit & 1] if broken else [],
            self._remembered[: ENTRY_BYTES * counts[REMEMBERED]].tobytes(),
            tuple(choice_of(memory, slot) for slot in range(slots)) if request.explain else (),
            self._decided() if withheld else b"",
            withheld,
            self._weigh_shadows(slots) if self._weigh_shadows is not None and request.personal else (),
            int(np.count_nonzero(memory.slot_pool[:slots] == PINNED)) if self._pins is not NO_PINS else 0,
            summary,
        )

    def _decided(self) -> bytes:
        """What else the slots that are in the memory could have held."""
        length = self._pack_decision(self._frame, self._decision)
        return bytes(self._decided_bytes[:length])

    def _withheld(self, request: FeedRequest, entries: int) -> bytes:
        """What they could not, because of the request or the user."""
        if len(self._withheld_items.keys) < (touched := int(self.memory.counts[TOUCHED_ITEMS])):
            self._withheld_items = make_withheld_memory(2 * touched)
        found = self._withheld_items
        count = self._collect(self._frame, self._decision, request.excluded, entries, found)
        return found.packing.packed.data.cast("B")[: self._pack_withheld(found, count)].tobytes()

    def _weigher(self, policies: tuple[Policy, ...]) -> Callable[[int], ShadowPropensities]:
        """What gives the shadows' propensities of so many slots that are in the memory."""
        frame, arrays = self._frame, stack_shadows([policy.arrays for policy in policies])
        scratch = make_shadow_memory(arrays, len(self.memory.pool_items))
        weigh = entry_for(weigh_shadows, frame, arrays, scratch)
        rows = [(policy.version, row.data.cast("B")) for policy, row in zip(policies, scratch.propensity, strict=True)]

        def weighed(slots: int) -> ShadowPropensities:
            weigh(frame, arrays, scratch)
            return tuple((version, bytes(row[: 4 * slots])) for version, row in rows)

        return weighed

    def outsider(
        self,
        history: Int64,
        network: Int64,
        connections: int,
        attributes: Sequence[Sequence[str]],
        filters: Sequence[tuple[str, float | Sequence[str]]] = (),
    ) -> Outsider:
        """A user who is not in the catalog. ``attributes``: the profile's skills, knowledges, tools and languages as
        they are compared; what no item here has is left out. ``filters``: what the user's own row asks for."""
        asked = tuple(
            (name, own if isinstance(own, float) else tuple(value_number(text) for text in own))
            for name, own in filters
        )
        return Outsider(history, network, connections, self._token_numbers(attributes), asked)

    def _token_numbers(self, attributes: Sequence[Sequence[str]]) -> npt.NDArray[np.int32]:
        numbers = [self._token_number(kind, text) for kind, texts in enumerate(attributes) for text in texts]
        return np.array([number for number in numbers if number >= 0], np.int32)

    def _handled(self, stage: str) -> int:
        """Items that a stage of the last feed handled."""
        counts = self.memory.counts
        if stage == "user":
            return int(counts[TOUCHED_ITEMS])
        if stage == "candidates":
            return int(counts[SCANNED])
        if stage in {"features", "scores"}:
            return int(self.memory.pool_offsets[-1])
        return int(counts[SLOTS])

    def user_row(self, user_id: int) -> int:
        """The user's row in the catalog; -1 for anonymous and unknown ones."""
        if user_id == 0:
            return ANONYMOUS_ROW
        if user_id != self._looked_up[0]:  # each feed asks twice
            ids = self.catalog.arrays.user_id
            self._looked_up = user_id, self._find(ids, user_id, 0, len(ids))
        return self._looked_up[1]

    def is_listed(self, user_id: int) -> bool:
        """Whether a user's feeds are not personal, whatever the request says."""
        listed = self.catalog.not_personal
        if not self._needs_list:
            return False
        return listed is None or self._find(listed, user_id, 0, len(listed)) >= 0

    def render(self, slate: Slate) -> bytes:
        """Join the ready-made items to the answer."""
        request = slate.request
        head = _HEADS.get(request.endpoint)
        if request.by_name or head is None:
            return self._rendered_by_name(slate)
        relaxed = ",".join([f'"{rule}"' for rule in slate.relaxed]) if slate.relaxed else ""
        tail = f'],"request_id":"{request.request_id}","relaxed":[{relaxed}]}}}}'.encode()
        if request.explain:
            return b"".join((head, self._explained(slate), tail))
        end = self._joined(slate, len(head), len(tail))
        body = self._body.data
        body[: len(head)] = head
        body[end : end + len(tail)] = tail
        return body[: end + len(tail)].tobytes()

    def _joined(self, slate: Slate, start: int, room: int) -> int:
        """Write numbers and items into ``_body`` from ``start`` on; where they end, with ``room`` for what follows."""
        join, parts = self._join, (self._item_bytes, self.catalog.item_offsets, slate.items, slate.numbers, start)
        return self._written(join, parts, room)

    def _written(self, join: Callable[..., int], parts: tuple[Any, ...], room: int) -> int:
        end = join(*parts, self._body)
        if end < 0 or end + room > len(self._body):
            self._body = np.empty(2 * (abs(end) + room), np.uint8)
            end = join(*parts, self._body)
        return int(end)

    def _rendered_by_name(self, slate: Slate) -> bytes:
        """As any operator's feed is answered: ids as they look in the tables."""
        tail = b'],"request_id":"%b","relaxed":%b}' % (slate.request.request_id.encode(), _encode(slate.relaxed))
        has_texts = self.catalog.item_texts is not None
        if slate.request.explain:
            ids = [self.catalog.id_of(item) for item in slate.items.tolist()] if has_texts else slate.numbers.tolist()
            return b"".join(
                (b'{"ids":%b' % _encode(ids)[:-1], b'],"items":[', b",".join(self._explained_items(slate)), tail)
            )
        head = b'{"ids":[' if has_texts else b'{"ids":%b' % _encode(slate.numbers.tolist())[:-1]
        body_start = 0
        if has_texts:
            parts = (self._item_bytes, self.catalog.item_offsets, slate.items, len(head))
            end = self._written(self._join_named, parts, len(tail))
        else:
            # Behind the numbers, each in quotes, which are written over.
            end = self._joined(slate, len(head), len(tail))
            body_start = len(head) - len(b'{"ids":[') + 2 * len(slate.items)
        body = self._body.data
        body[body_start : body_start + len(head)] = head
        body[end : end + len(tail)] = tail
        return body[body_start : end + len(tail)].tobytes()

    def _explained(self, slate: Slate) -> bytes:
        """The numbers, and the items with the reason for each."""
        numbers = ",".join([f'"{number}"' for number in slate.numbers.tolist()])
        return b'%b],"items":[%b' % (numbers.encode(), b",".join(self._explained_items(slate)))

    def _explained_items(self, slate: Slate) -> list[bytes]:
        catalog, language = self.catalog, slate.request.language
        return [
            b'%b,"why":%b}'
            % (catalog.item_json(item)[:-1], explained(catalog, self.policy, item, choice, position, language))
            for position, (item, choice) in enumerate(zip(slate.items.tolist(), slate.choices, strict=True))
        ]


def fitted(policy: Policy, catalog: Catalog) -> PolicyArrays:
    """The policy's arrays, with what the catalog's build measured where the policy lets it: how much a profile counts,
    and a window of creators that is no longer than the catalog has creators for."""
    arrays, measuring, measured = policy.arrays, policy.file.measuring, catalog.measured
    if measuring is None or measured is None:
        return arrays
    arrays = arrays._replace(profile_weight=float(measured.get("profile", 1.0)))
    window = measured["creator_window"]
    if measuring.creators_each is None or window is None:
        return arrays
    return arrays._replace(creator_window=min(arrays.creator_window, window))


def _number_of(*parts: bytes) -> int:
    """64 bits that name them."""
    return int.from_bytes(hashlib.blake2b(b"\0".join(parts), digest_size=8).digest(), "big", signed=True)


def _token_number(arrays: CatalogArrays, kind: int, text: str) -> int:
    """-1 where no item here has it."""
    place = find(arrays.token_hash, hash_token(kind, text), 0, len(arrays.token_hash))
    return int(arrays.token_of_hash[place]) if place >= 0 else -1


def _copy(values: npt.NDArray[Any], memory: npt.NDArray[Any]) -> int:
    """As many as there is room for; how many."""
    count = min(len(values), len(memory))
    memory[:count] = values[:count]
    return count


def feed_seed(seed: int, user_id: int, request_id: str) -> int:
    """63 bits from (seed, user, request): the same three give the same feed on the same versions."""
    digest = _seeded(seed).copy()
    digest.update(f"{user_id}:{request_id}".encode())
    return int.from_bytes(digest.digest(), "big") >> 1


@lru_cache(4)
def _seeded(seed: int) -> "hashlib.blake2b":
    return hashlib.blake2b(f"{seed}:".encode(), digest_size=8)

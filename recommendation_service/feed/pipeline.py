"""From a request to the bytes of its feed, on one catalog version and one policy version."""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recommendation_service.catalog.store import Catalog
from recommendation_service.feed.explain import explain_slot
from recommendation_service.feed.request import NO_IDS, FeedRequest
from recommendation_service.feed.slate import RULES
from recommendation_service.feed.stages import STAGES, rank
from recommendation_service.model.columns import hash_token
from recommendation_service.model.kinds import ENDPOINTS
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.compiled import entry_for
from recommendation_service.ranking.places import find
from recommendation_service.ranking.request import ANONYMOUS_ROW, RankingRequest
from recommendation_service.ranking.seen import ENTRY_BYTES, Lifetimes
from recommendation_service.ranking.working_memory import (
    LARGEST_FEED,
    RELAXED,
    REMEMBERED,
    SCANNED,
    SLOTS,
    TOUCHED_ITEMS,
    WorkingMemory,
    make_working_memory,
)

IDS_FIELD = {"total": b"mix_ids", "discover": b"resume_ids", "flow": b"challenge_ids"}

# Every so many feeds the stages are run one by one and timed; together they are one call.
TIMED_EVERY = 64

ObserveStage = Callable[[str, float, int], None]  # stage, seconds, items handled


class FeedPipeline:
    """Not safe for several threads: a worker's event loop runs one feed at a time."""

    def __init__(
        self,
        catalog: Catalog,
        policy: Policy,
        seed: int = 0,
        observe_stage: ObserveStage | None = None,
        lifetimes: Lifetimes = Lifetimes(),  # noqa: B008
    ) -> None:
        self.catalog = catalog
        self.policy = policy
        self.memory: WorkingMemory = make_working_memory(catalog.arrays, policy.arrays)
        self.memory.lifetimes[:] = lifetimes
        self._seed = seed
        self._observe_stage = observe_stage
        self._feeds = 0
        example = RankingRequest(ANONYMOUS_ROW, 1, 0, 0, NO_IDS)
        self._rank = entry_for(rank, catalog.arrays, policy.arrays, example, self.memory)
        self._seen = self.memory.seen_entries.data.cast("B")
        self._remembered = self.memory.remembered.data.cast("B")
        self._columns = tuple(
            (column.data.cast("B"), column.nbytes // LARGEST_FEED)
            for column in (
                *(self.memory.slot_key, self.memory.slot_kind, self.memory.slot_pool, self.memory.slot_relaxed),
                *(self.memory.slot_propensity, self.memory.slot_X_recorded),
            )
        )
        self._find = entry_for(find, catalog.arrays.user_id, 0, 0, 0)
        self._request = example

    def feed(self, request: FeedRequest) -> bytes:
        """The body of the answer. Never fails for a valid request."""
        self.rank(request)
        return self.render(request)

    def rank(self, request: FeedRequest, seen: bytes = b"") -> None:
        """Fill the working memory's slots. ``seen``: what is remembered of the user, as ranking/seen.py says."""
        memory, outsider = self.memory, request.outsider
        remembered = min(len(seen), len(self._seen))
        if remembered:
            self._seen[:remembered] = seen[-remembered:]
        row = self.user_row(request.user_id)
        history = network = tokens = connections = 0
        if outsider is not None and row < 0:
            history = _copy(outsider.history, memory.own_history)
            network = _copy(outsider.network, memory.own_network)
            tokens = _copy(outsider.tokens, memory.own_tokens)
            connections = outsider.connections
        ranking_request = self._request = RankingRequest(
            row,
            request.size,
            ENDPOINTS.index(request.endpoint),
            feed_seed(self._seed, request.user_id, request.request_id),
            request.excluded,
            request.now,
            request.session,
            remembered // ENTRY_BYTES,
            history,
            network,
            tokens,
            connections,
        )
        self._feeds += 1
        if self._observe_stage is None or self._feeds % TIMED_EVERY:
            self._rank(self.catalog.arrays, self.policy.arrays, ranking_request, self.memory)
            return
        started = time.perf_counter()
        for name, stage in STAGES:
            stage(self.catalog.arrays, self.policy.arrays, ranking_request, self.memory)
            ended = time.perf_counter()
            self._observe_stage(name, ended - started, self._handled(name))
            started = ended

    @property
    def seed(self) -> int:
        """Of the last feed."""
        return self._request.seed

    def token_numbers(self, attributes: Sequence[Sequence[str]]) -> npt.NDArray[np.int32]:
        """Numbers of a profile's skills, knowledges, tools and languages; what no item here has is left out."""
        arrays = self.catalog.arrays
        numbers = []
        for kind, texts in enumerate(attributes):
            for text in texts:
                place = find(arrays.token_hash, hash_token(kind, text), 0, len(arrays.token_hash))
                if place >= 0:
                    numbers.append(arrays.token_of_hash[place])
        return np.array(numbers, np.int32)

    def shown(self) -> npt.NDArray[np.int64]:
        """(n,) keys of the last feed's items, a copy."""
        return self.memory.slot_key[: self.slots].copy()

    def slot_columns(self) -> list[memoryview]:
        """The last feed's slots as a record has them: keys, kinds, pools, relaxed rules, propensities, features.

        Views, until the next feed.
        """
        slots = self.slots
        return [column[: slots * width] for column, width in self._columns]

    @property
    def slots(self) -> int:
        """Items in the last feed."""
        return int(self.memory.counts[SLOTS])

    def remembered(self) -> bytes:
        """What is to be remembered of the last feed's user from now on, as ranking/seen.py says."""
        return bytes(self._remembered[: ENTRY_BYTES * int(self.memory.counts[REMEMBERED])])

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
        ids = self.catalog.arrays.user_id
        return self._find(ids, user_id, 0, len(ids))

    def render(self, request: FeedRequest) -> bytes:
        """Join the ready-made items to the answer."""
        memory, catalog = self.memory, self.catalog
        slots = self.slots
        items = memory.slot_item[:slots]
        starts, ends = catalog.item_offsets[items], catalog.item_offsets[items + 1]
        blob = catalog.item_bytes
        bodies: list[memoryview | bytes] = [
            blob[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        if request.explain:
            bodies = [
                b"%b,%b}" % (bytes(body[:-1]), b'"why":' + explain_slot(catalog, self.policy, memory, slot))
                for slot, body in enumerate(bodies)
            ]
        ids = '","'.join(map(str, memory.slot_number[:slots].tolist()))
        relaxed = ",".join(f'"{rule}"' for rule in self.relaxed())
        return b"".join(
            (
                b'{"statusCode":200,"body":{"',
                IDS_FIELD[request.endpoint],
                f'":["{ids}"],"items":['.encode() if slots else b'":[],"items":[',
                b",".join(bodies),
                f'],"request_id":"{request.request_id}","relaxed":[{relaxed}]}}}}'.encode(),
            )
        )

    def relaxed(self) -> list[str]:
        """Names of the rules that gave way in the last feed, in the order in which they do."""
        broken = int(self.memory.counts[RELAXED])
        return [rule for bit, rule in enumerate(RULES) if broken >> bit & 1] if broken else []

    @property
    def scanned(self) -> int:
        """Items that retrieval scored for the last feed."""
        return int(self.memory.counts[SCANNED])


def _copy(values: npt.NDArray[Any], memory: npt.NDArray[Any]) -> int:
    """As many as there is room for; how many."""
    count = min(len(values), len(memory))
    memory[:count] = values[:count]
    return count


def feed_seed(seed: int, user_id: int, request_id: str) -> int:
    """63 bits from (seed, user, request): the same three give the same feed on the same versions."""
    digest = hashlib.blake2b(f"{seed}:{user_id}:{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

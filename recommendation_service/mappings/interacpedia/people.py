"""What people did, are connected to, and say of themselves, from the rows of the queries."""

import numpy as np

from recommendation_service.catalog import cleaning
from recommendation_service.catalog.people import Interactions, People, each_once, places
from recommendation_service.catalog.report import BuildReport
from recommendation_service.catalog.vocabulary import Vocabulary
from recommendation_service.mappings.interacpedia.items import cut_tokens
from recommendation_service.model.columns import Int64
from recommendation_service.sources.reader import Table

VIEWS = "interactions_views"
LARGEST_WEIGHT = 5.0  # of a rating; whatever is above counts as this


def gather_interactions(
    tables: dict[str, Table],
    not_personal: Int64,
    video_ids: Int64,
    challenge_ids: Int64,
    now: float,
    since: float,
    report: BuildReport,
) -> tuple[Interactions, Interactions]:
    """Join the four kinds of interactions with the catalog's items; latest first within a user. None of the users in
    ``not_personal``.

    First those by which people are known, which is all but ratings, matches and saves of before ``since``; then all:
    what people take together is told by older ones as well.
    """
    users, items, weights, times, known = [], [], [], [], []
    read = 0
    for name, table in tables.items():
        user = cleaning.ids(table["user_id"], f"{name}.user_id", report)
        number = cleaning.ids(table["item_id"], f"{name}.item_id", report)
        weight = cleaning.numbers(table["weight"], f"{name}.weight", report)
        report.aside(f"{name}.weight", "above 5", int((weight > LARGEST_WEIGHT).sum()))
        weight = np.minimum(weight, LARGEST_WEIGHT)
        time = cleaning.epoch_seconds(table["happened_at"], f"{name}.happened_at", now, report, zone=table.zone)
        item = places(video_ids, number)
        if "is_challenge" in table.columns:
            is_challenge = np.array(table["is_challenge"], bool)
            challenge = places(challenge_ids, number)
            item = np.where(is_challenge, np.where(challenge < 0, -1, challenge + len(video_ids)), item)
        usable = (user > 0) & (number > 0) & ~np.isnan(time)
        lately = (time >= since) | (name == VIEWS)
        read += int((usable & lately).sum())
        report.aside(f"{name}.item_id", "item not in the catalog", int((usable & (item < 0)).sum()))
        usable &= (item >= 0) & ~np.isin(user, not_personal)
        users.append(user[usable])
        items.append(item[usable])
        weights.append(weight[usable])
        times.append(time[usable])
        known.append(lately[usable])
    user, item = np.concatenate(users), np.concatenate(items)
    weight, time, lately = np.concatenate(weights), np.concatenate(times), np.concatenate(known)
    of_people = each_once(user[lately], item[lately], weight[lately], time[lately], read)
    return of_people, of_people if lately.all() else each_once(user, item, weight, time, len(time))


def gather_people(
    users: Table,
    connections: Table,
    interactions: Interactions,
    not_personal: Int64,
    creator_ids: Int64,
    vocabulary: Vocabulary,
    cuts: tuple[int, int, int, int],
    now: float,
    since: float,
    report: BuildReport,
) -> People:
    """Everyone who is recent, interacted, or is connected, but for those in ``not_personal``. ``since``: created or
    updated later than this is recent, in seconds since 1970."""
    recent = _recent(users, now, since, report)
    recent[np.isin(recent, not_personal)] = 0
    profiles: dict[int, list[int]] = {}
    columns = [users[name] for name in ("skills", "knowledges", "tools", "languages")]
    for row, user in enumerate(recent.tolist()):
        if not user:
            continue
        lists = [
            cleaning.text_list(column[row], f"profiles.{name}", report)
            for name, column in zip(("skills", "knowledge", "tools", "languages"), columns, strict=True)
        ]
        if any(lists):
            profiles[user] = vocabulary.numbers(cut_tokens(lists, cuts))
    one = cleaning.ids(connections["from_id"], "user_connections.from_id", report)
    other = cleaning.ids(connections["to_id"], "user_connections.to_id", report)
    time = cleaning.epoch_seconds(
        connections["created_at"], "user_connections.created_at", now, report, zone=connections.zone
    )
    usable = (one > 0) & (other > 0) & (one != other) & ~np.isnan(time)
    pairs = np.unique(
        np.concatenate([np.stack([one[usable], other[usable]], 1), np.stack([other[usable], one[usable]], 1)]),
        axis=0,
    ).reshape(-1, 2)
    pairs = pairs[~np.isin(pairs[:, 0], not_personal)]

    user_id = np.unique(np.concatenate([recent[recent > 0], interactions.user, pairs[:, 0]]))
    rows = np.arange(len(user_id) + 1)
    creator = places(creator_ids, pairs[:, 1])
    known = creator >= 0
    network_users = places(user_id, pairs[known, 0])
    profile_rows = places(user_id, np.array(sorted(profiles), np.int64))
    profile_sizes = np.zeros(len(user_id), np.int64)
    profile_sizes[profile_rows] = [len(profiles[user]) for user in sorted(profiles)]
    return People(
        user_id=user_id,
        history_offsets=np.searchsorted(places(user_id, interactions.user), rows),
        network_offsets=np.searchsorted(network_users, rows),
        recent=len(np.unique(recent[recent > 0])),
        connected=int(usable.sum()),
        network_creators=creator[known].astype(np.int32),
        connections=np.bincount(places(user_id, pairs[:, 0]), minlength=len(user_id)).astype(np.int32),
        profile_offsets=np.concatenate([[0], np.cumsum(profile_sizes)]),
        profile_tokens=np.array([token for user in sorted(profiles) for token in profiles[user]], np.int32),
    )


def _recent(users: Table, now: float, since: float, report: BuildReport) -> Int64:
    """Ids of the rows' users; 0 for who is not recent."""
    ids = cleaning.ids(users["id"], "users.id", report)
    created = cleaning.epoch_seconds(
        users["created_at"], "users.created_at", now, report, required=False, zone=users.zone
    )
    updated = cleaning.epoch_seconds(
        users["updated_at"], "users.updated_at", now, report, required=False, zone=users.zone
    )
    return np.where(np.fmax(created, updated) >= since, ids, 0)

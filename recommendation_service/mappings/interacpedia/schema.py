"""What `recs doctor` holds the server against: the tables that are read, phase 1's indices, targets."""

from recommendation_service.doctor.indices import Index
from recommendation_service.doctor.schema import Schema
from recommendation_service.mappings.interacpedia.item_row import QUERY as ONE_ITEM
from recommendation_service.mappings.interacpedia.rows import PREFIX as ROWS
from recommendation_service.mappings.interacpedia.statements import FOLDER

_TIMES = ("created_at", "updated_at", "deleted_at")

# A test holds the list to the queries.
REQUIRED: dict[str, tuple[str, ...]] = {
    "users": ("id", "name", "city", "country", *_TIMES),
    "profiles": ("id", "user_id", "skills", "languages", "tools", "knowledge"),
    "resumes": (
        *("id", "user_id", "video", "image", "skills", "knowledges", "tools", "languages", "role_objectives"),
        *("description", "status", *_TIMES),
    ),
    "challenges": (
        *("id", "user_id", "name", "slug", "description", "video", "image", "talent_type", "interest_areas"),
        *("type_objectives", "status", "status_at", *_TIMES),
    ),
    "team_feedbacks": ("id", "user_id", "model_id", "type", "value", "created_at"),
    "matches": ("id", "user_id", "model_id", "status", "created_at"),
    "likes": ("id", "user_id", "model_id", "type", "created_at"),
    "resumes_exhibited": ("id", "resume_id"),
    "views": ("id", "model_id", "model_type"),
    "user_connections": ("id", "from_id", "to_id", "status", "created_at"),
    "activity_log": ("id", "description", "subject_id", "subject_type", "causer_id", "properties", "created_at"),
}

# A column that could be a foreign key leads an index only where it is the whole of it: a longer index that begins
# with it would make the server drop the one that it made for the key by itself. An operator's own serves then.
#
# `migrations/phase1_*.sql` repeat the list, since the plain client can read nothing else; a test proves that they have
# exactly these, in this order, with these reasons.
PHASE_1 = (
    Index(
        "recs_users_created",
        "users",
        ("created_at",),
        ("users",),
        "recent users are 4 % of all; with both dates indexed the two are merged instead of reading every user",
    ),
    Index(
        "recs_users_updated",
        "users",
        ("updated_at",),
        ("users", "changes"),
        "the other half of that merge; and the latest update is the index's last entry",
    ),
    Index(
        "recs_users_deleted",
        "users",
        ("deleted_at",),
        ("changes",),
        "the latest deletion is the index's last entry; asked every CATALOG_REFRESH_SECONDS, else of every user",
    ),
    Index(
        "recs_profiles_user",
        "profiles",
        ("user_id",),
        ("users", "changes", "user_facts"),
        "without it every recent user is compared with every profile, which is what makes phase 1 urgent",
    ),
    Index(
        "recs_resumes_status_created",
        "resumes",
        ("status", "created_at"),
        ("videos", "changes"),
        "sent résumés of the window are one range, whatever else has piled up; and they are counted in the index",
    ),
    Index(
        "recs_ratings_created",
        "team_feedbacks",
        ("type", "created_at", "user_id", "model_id", "value"),
        ("interactions_ratings",),
        "ratings of the window are one range, read from the index alone",
    ),
    Index(
        "recs_ratings_model",
        "team_feedbacks",
        ("type", "model_id", "value"),
        ("engagement_ratings", "changes"),
        "counted and averaged from the index alone, in its order: no temporary table and no sorting",
    ),
    Index(
        "recs_ratings_user",
        "team_feedbacks",
        ("user_id",),
        ("user_facts",),
        "one user's ratings are looked up, while a feed waits, instead of found among all of the window",
    ),
    Index(
        "recs_matches_created",
        "matches",
        ("status", "created_at", "user_id", "model_id"),
        ("interactions_matches",),
        "accepted matches of the window are one range, read from the index alone",
    ),
    Index(
        "recs_matches_model",
        "matches",
        ("status", "model_id"),
        ("engagement_matches", "changes"),
        "counted from the index alone, in its order",
    ),
    Index(
        "recs_matches_user",
        "matches",
        ("user_id",),
        ("user_facts",),
        "the same for one user's matches",
    ),
    Index(
        "recs_likes_created",
        "likes",
        ("type", "created_at", "user_id", "model_id"),
        ("interactions_saves",),
        "saves of the window are one range, read from the index alone",
    ),
    Index(
        "recs_likes_model",
        "likes",
        ("type", "model_id"),
        ("engagement_saves", "changes"),
        "counted from the index alone, in its order",
    ),
    Index(
        "recs_likes_user",
        "likes",
        ("user_id",),
        ("user_facts",),
        "the same for one user's saves",
    ),
    Index(
        "recs_connections_created",
        "user_connections",
        ("status", "created_at", "from_id", "to_id"),
        ("connections", "changes"),
        "accepted connections of the window are one range, read from the index alone",
    ),
    Index(
        "recs_connections_from",
        "user_connections",
        ("from_id",),
        ("user_facts",),
        "one user's connections are looked up, in either direction",
    ),
    Index(
        "recs_connections_to",
        "user_connections",
        ("to_id",),
        ("user_facts",),
        "the other direction",
    ),
    Index(
        "recs_views_model",
        "views",
        ("model_type", "model_id"),
        ("engagement_views",),
        "all views of résumés are counted from the index alone, in its order",
    ),
    Index(
        "recs_exhibited_resume",
        "resumes_exhibited",
        ("resume_id",),
        ("engagement_exhibitions",),
        "all exhibitions are counted from the index alone, in its order",
    ),
    Index(
        "recs_activity_created",
        "activity_log",
        ("created_at",),
        ("interactions_views",),
        "the window is one range of the index alone, and only its rows are then read; the log is the largest table",
    ),
    Index(
        "recs_activity_causer",
        "activity_log",
        ("causer_id", "created_at"),
        ("user_facts",),
        "one user's latest views, while a feed waits: without it all of the window is read for each user",
    ),
)

# Phase 1's proof: medians below these, at the operator's sizes of today.
TARGETS_MILLISECONDS = {"users": 100.0, "videos": 80.0, "engagement_views": 70.0}
# What has to be read whole, and why that is no fault.
EXPECTED_SCANS = {
    ("changes", "profiles"): "a checksum of all profiles reads all of them",
    ("changes", "resumes"): "a look for changes counts every résumé",
    ("changes", "challenges"): "a look for changes counts every challenge",
}


def queries() -> tuple[str, ...]:
    """All that want an index or a while, those with a target first: not those that the learner reads rows by, by the
    primary key, nor that of one item, by the same."""
    names = {path.stem for path in FOLDER.glob("*.sql") if not path.stem.startswith(ROWS)} - {ONE_ITEM}
    return *TARGETS_MILLISECONDS, *sorted(names - set(TARGETS_MILLISECONDS))


SCHEMA = Schema(
    tables=REQUIRED,
    indices=PHASE_1,
    queries=queries(),
    targets=TARGETS_MILLISECONDS,
    scans=EXPECTED_SCANS,
    appended=frozenset({"activity_log"}),
    somebody="SELECT causer_id FROM activity_log WHERE causer_id IS NOT NULL ORDER BY id DESC LIMIT 1",
)

"""Whether the tables have an item's row, and which rules keep the queries of a build from reading it."""

from recommendation_service.mappings.interacpedia.words import CHALLENGE
from recommendation_service.sources.item_row import ItemRow
from recommendation_service.sources.reader import Snapshot

QUERY = "item"


def item_row(snapshot: Snapshot, item_type: int, number: int) -> ItemRow | None:
    """None: there is no such row. Raises SourceError."""
    snapshot.parameters |= {"item_id": number}
    found = snapshot.read(QUERY)
    for row in range(len(found)):
        if bool(found["is_challenge"][row]) is (item_type == CHALLENGE):
            holds = {
                "deleted": not found["is_deleted"][row],
                "creator_deleted": not found["creator_is_deleted"][row],
                "unpublished": found["is_published"][row],
                "no_video": found["has_video"][row],
                "no_time": found["has_time"][row],
                "too_old": found["is_recent"][row] or not found["has_time"][row],
            }
            return ItemRow(str(found["status"][row] or ""), [rule for rule, does in holds.items() if not does])
    return None

"""How the server makes ``activity_log``'s rows from those of ``recs_events``.

An event is sent once: the second table is filled by the server, from the first. So what an application reads in
``properties`` is written down here in SQL, for feeds too: of those, ``recs_events`` has the items in few letters.
"""

from recommendation_service.flush.rows import ITEM_MARKS
from recommendation_service.model.item_keys import ITEM_TYPES

LOG_TABLE = "activity_log"


def _long_items() -> str:
    """SQL that makes of recs_events' items, as ``12 VMP,7c FW``, the JSON list that activity_log has."""
    items = """REPLACE(SUBSTR(properties, INSTR(properties, '"items":"') + 9), ',', '"},{"id":')"""
    for mark, item_type in sorted(zip(ITEM_MARKS, ITEM_TYPES, strict=False), reverse=True):  # the unmarked last
        items = f"""REPLACE({items}, '{mark} ', ',"type":"{item_type}","slot":"')"""
    return f"""CASE WHEN SUBSTR(properties, -4) = ':""}}' THEN '[]' ELSE CONCAT('[{{"id":', {items}, ']') END"""


# The statement that makes activity_log's rows of a batch. What is absent is left out by CONCAT of a NULL being NULL. A
# row whose text wants escaping brings it in its properties. Rows that were there before bear another flush_id, and are
# not written again. For {local}: what ``local_expression`` says of the batch.
COPY_TO_LOG = f"""INSERT INTO activity_log (log_name, description, subject_id, subject_type, causer_id,
  causer_type, properties, url, created_at, updated_at)
SELECT 'app',
  CASE WHEN event = 'feed' THEN CONCAT('#feed #request #', endpoint)
    ELSE CONCAT('#video #view #', COALESCE(slot_kind, 'UNKNOWN')) END,
  item_id,
  CASE item_type WHEN 'resume' THEN :resume_type WHEN 'challenge' THEN :challenge_type
    WHEN 'creator' THEN :user_type END,
  NULLIF(user_id, 0), :user_type,
  CASE WHEN event = 'feed' THEN CONCAT('{{"event":"feed","event_id":"', event_id, '","user_id":', user_id,
    ',"request_id":"', request_id, '",',
    CASE WHEN SUBSTR(properties, 1, 13) = '{{"session_id"' THEN ''
      ELSE CONCAT(COALESCE(CONCAT('"session_id":"', session_id, '",'), ''), '"endpoint":"', endpoint, '",') END,
    SUBSTR(properties, 2, INSTR(properties, '"items":"') - 2),
    '"happened_at":"', REPLACE(happened_at, ' ', 'T'), 'Z","items":', {_long_items()}, '}}')
  ELSE COALESCE(properties, CONCAT('{{"event":"', event, '","event_id":"', event_id, '","user_id":', user_id,
    ',"item_type":"', item_type, '","item_id":', item_id,
    COALESCE(CONCAT(',"request_id":"', request_id, '"'), ''),
    COALESCE(CONCAT(',"session_id":"', session_id, '"'), ''),
    COALESCE(CONCAT(',"slot_kind":"', slot_kind, '"'), ''),
    COALESCE(CONCAT(',"position":', position), ''),
    COALESCE(CONCAT(',"value":', value), ''),
    COALESCE(CONCAT(',"watch_seconds":', watch_seconds), ''),
    CASE WHEN flags = 0 THEN '' ELSE CONCAT(',"flags":', flags) END,
    ',"happened_at":"', REPLACE(happened_at, ' ', 'T'), 'Z"}}')) END,
  CASE WHEN event = 'feed' THEN CONCAT('/api/search/', endpoint)
    ELSE CONCAT('/api/search/feed/video/', item_id) END,
  {{local}}, {{local}}
FROM recs_events WHERE id > :last_id AND flush_id = :flush_id"""


COPY_PARAMETERS = {
    "resume_type": r"App\Interacpedia\Resumes\Resume",
    "challenge_type": r"App\Interacpedia\Challenges\Challenge",
    "user_type": r"App\User",
}

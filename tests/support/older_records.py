"""What the release at commit 5484959 wrote of one feed: into the log, and into recs_events.slots."""

from __future__ import annotations

import base64

import numpy as np

from recommendation_service.log.records import FeedRecord
from recommendation_service.ranking.packed_slots import Slots, pack_as_they_are

IN_THE_LOG = base64.b64decode(
    "3AAQpWZlZWQxxBAAAQIDBAUGBwgJCgsMDQ4PxBAQERITFBUWFxgZGhscHR4fzRJnpXRhYi0xAc8AAAGh7lZee9koMjAyNjExMjRUMDY0MjM1"
    "LjAwMDAwMFotNjM3NGM4ODIzYzI1ODVkZKpzdGFydGluZy0xz0AAAAAAAAAFxBjSBwAAAAAAAJsAAAAAAAAAMBEAAAAAAADEAwADAcQDAANk"
    "xAMAAgHEGAAAAAAAAMA/AAAAAAAA4D9VVVVVVVXVP8TYAAAAACVJEj4lSZI+t23bPiVJEj9u2zY/t21bPwAAgD8lSZI/SZKkP27btj+SJMk/"
    "t23bP9u27T8AAABAkiQJQCVJEkC3bRtASZIkQNu2LUBu2zZAAABAQJIkSUAlSVJAt21bQEmSZEDbtm1Abtt2QAAAgEBJkoRAkiSJQNu2jUAl"
    "SZJAbtuWQLdtm0AAAKBASZKkQJIkqUDbtq1AJUmyQG7btkC3bbtAAADAQEmSxECSJMlA27bNQCVJ0kBu29ZAt23bQAAA4EBJkuRAkiTpQNu2"
    "7UAlSfJA"
)
IN_ITS_ROW = base64.b64decode(
    "AXgBJcy9T8JAGAbwK4iIn6V+ofixQOJS0xZambhbuxp1kMQEKRKGMihxcWFwcXDp4MKiCQyauDiUwYXhFgZCQqLR1IHBxQEH/wIf6Dvc+97z"
    "e+++iNg8KxYtlYtECAQnQpPhqcj0zOzc/AIXxai0uLS8shpbW49vbG5td6VSs5o/lVWhR4jw8Ht0cvW5oymaoapa+kAx0lpK31XGdSwbqb10"
    "IZPRUgVNz+iW9XRRzZ9Xy5WSrPYYGVeIx/phf6z7jShRf+BBEhRGh4UjIPCYH7ep3wf0cFxvlH+MkqQpZZOmk23ZHrpEK55BW3YO2zWKnJpO"
    "A5lLnUQHuUc9dzj6iTmJCMM+a9lxZjoJ5rkyw1sGgpmwfVgOZsFs2CWshvs1/AbZLXYc5HfYq8PuYQ3YI+wZ9gJzYa+wNozDOrAurA97h3mw"
    "Aewb9gMbwv7YP7HIgSI="
)
# The same as it is read today.
AS_READ = FeedRecord(
    event_id=bytes(range(16)),
    request_id=bytes(range(16, 32)),
    user_id=4711,
    session_id="tab-1",
    endpoint=1,
    happened_ms=1_795_000_000_123,
    catalog_version="20261124T064235.000000Z-6374c8823c2585dd",
    policy_version="starting-1",
    seed=2**62 + 5,
    packed=pack_as_they_are(
        Slots(
            np.array([2002, 155, 4400]),
            np.array([0, 3, 1], np.uint8),
            np.array([0, 3, 100], np.uint8),
            np.array([0, 2, 1], np.uint8),
            np.array([1 / 8, 1 / 2, 1 / 3], np.float32),
            (np.arange(54) / 7).astype(np.float32).reshape(3, 18),
        )
    ),
)

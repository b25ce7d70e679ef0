"""What older releases wrote of one feed: that at commit 5484959 into the log, and into recs_events.slots, and that at
290e7e4 of a feed's slots and decision, when all steps of a column were of one size."""

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

SLOTS_IN_STEPS_OF_ONE_SIZE = base64.b64decode(
    "CQWBWDKrBwVCAKBwCgAAACjKEz5yldjm/rOdd3livQFA5Zgl/z9bkBBN4P9swXvG6lZ9QFC18cOwBBoiAaxBzipTSAbgYKJS90CaJ5eOXJ4yl0sj"
    "AGB1BItRGOYDQsChdFoIEgeAB8OOFLNMsosu8geEmjqAjbnSOIsmr/MSWwAdog8IKgDj2SA3sytVM7uqrCo6Jh/UOKZa4gfgmDBY32gPCMHTk6Mm"
    "9C7jR0p0CwGEAOBr7KGJL2vPtHUtAbAzOn4fEN6ab+3qpIKUN/BmEvwAdIA+IAAA+ZbgJyLGTtlJSBPSCAAAf0AE6Bt8hMc8IJIidXGh6c8PgOgJ"
    "oo2cj7mHZTnyEzx/AETqVH1IjRrg8sSDwD5giHBUykDsMoISwjV5NiwiBAAA"
)
DECISION_IN_STEPS_OF_ONE_SIZE = base64.b64decode(
    "EgAFgVgCRq0WCiLizDglUGiNewCA11MtP7KpOGcl3xvYcZ9u0Y18rhyCazf6KuaPYQBAlwaow2MfyQgA4QAc9T7ybiPTiNfn7yzwgxwAaPbsqgry"
    "7g7kBYHEw+bFU/uT18DCREvG6A7KQav1f4y0BoqZz+KQWiofAOSx4eFenSy5kLXX7jUfjDarARCj4RpKLc0a5Jmn26yl3gGodwDeGB8A4O12BjXB"
    "eyf2Ofi1Wj7+jVPxdg0Va5NguXzYtGVFDIuWnmcQ4F5nyAFgRfQBGL9FRICICFhVRaqq6MyM1MxE3t0M0chqtZXJhxT75DV8dtODZgbYTY8zswnR"
    "QIra0R6A8ZkZiK7nXLgGgOsLup6zUljKzLQTrgE0s6Ez097MtAfaxh5k8/1okdVDn/efwukBOOdLbBFdz1Pl/adYJX0A+IdRK2tVMPSe3trp7eKS"
    "PnxuKGI6pgbIs54mgBTQB2D8BwAAVVVZVVXNzAwAQN7dDQCAiYiIaKx1QQAA+AOAf63BJ3B67zEPAP9JBssqg2UTzoBEbWeEMwCIJpKClrkHFfrS"
    "zDRrZoCaGQAZYVlVfRj0H1UVoKoC0kLBAsD/AWUyH+aaOTUjFRJ/E3MbCVYzSCvm11XHfabFk0r9rXXs9MOAJgMoAQAAAACAm/RQevlyYsRVAHq8"
    "xioGsZJrNS8T+K/yYcZypl1RReNs+CQTHdQ0C8XrgccxkQ4A/z+Us3zUFLAspIGnfehJAgkaMQY1+pFIaJyupgzOsIRrCccLo5Yk5nUGAOxKAyh3"
    "FicAAAAAAGD83wla09aT1FdLlXGWRUGOc8CdeIk+/G/QSgKiMmN9aFohWsWDixDMqMcw6Li/817c5qXkrcKIM6BXUwDd+KsIAO8ghA18NKgPbwxc"
    "Rty32kmwewN3l0pgi4CPViUBkAAAAAAAgD/UPkfcGSuw9V8dJDl3HdRx1AW3y0eS2qreF58JluwEAADAf8V1CySHXfg7yqQIrFbyClwCAAAAAIDY"
    "KUo2JXZKbvc8sch4IgBAAgAAaAAAAAAAAAAwhlO9XKW///w/IAAoAAAAAAAAAAQuFEju/99//P+AAHAAAAAAAAAAwMUhw/IuYv7hZwAAAAMAAAAA"
    "AADAy2MwVm9M+IeeAgLAAQAAAAAAADAdxg1Ujn/+QzYwAAUAAAAAAAAA1g06h///7z8NAAAWAAAAAAAAACRqbwkkpNU/lAwIAAEAAAAAAAAAiL81"
    "BP7/9x9CIiAACAAAAAAAAACcixT+d4/dfwAJ"
)
# SHA-256 of what that release read in them: of the propensities and features of the slots, and of the decision's items
# and each pool's members, features and distances.
SLOTS_READ = "d441f63ac92d1fecc4ee688eb20a78dfccef84ba0c85727024459e00e556c66f"
DECISION_READ = "fc6e14bc8329edd2ec62da4689af8887ad64899768f068df6b6267a7b412a381"

"""``POST /feedback``: what people did, acknowledged once it is on the disk."""

from collections.abc import Callable

import msgspec

from recommendation_service.api.calls import Call, Reply
from recommendation_service.api.event_bodies import read_events
from recommendation_service.api.limits import RateLimiter
from recommendation_service.core.errors import ServiceError
from recommendation_service.log.event_log import LogFull
from recommendation_service.log.records import FeedbackRecord
from recommendation_service.model.words import Words
from recommendation_service.serving.feedback import Accepted, Feedback, HideForgotten, NoLog

RETRY_AFTER_SECONDS = 5


class BacklogFull(ServiceError):
    status = 503
    code = "backlog_full"


class NotDurable(ServiceError):
    status = 503
    code = "not_durable"


class NotRemembered(ServiceError):
    status = 503
    code = "not_remembered"


class NotRecording(ServiceError):
    status = 503
    code = "not_recording"


class FeedbackEndpoint:
    def __init__(self, per_user: RateLimiter, now_ms: Callable[[], int], words: Words) -> None:
        self._words = words
        self._per_user = per_user
        self._now_ms = now_ms

    async def answer(self, call: Call) -> Reply:
        now_ms = self._now_ms()
        read = read_events(call.body, now_ms, self._words)
        if self._per_user.is_on:
            for user in {record.user_id for record in read}:
                if user:
                    self._per_user.check(f"feedback {user}")
        accepted = await _accept(call.worker.feedback, read, now_ms)
        return Reply(202, msgspec.json.encode({"statusCode": 202, "body": accepted}))


async def _accept(feedback: Feedback, read: list[FeedbackRecord], now_ms: int) -> Accepted:
    """Raises BacklogFull, NotDurable, NotRemembered or NotRecording; then none was acknowledged."""
    try:
        return await feedback.accept(read, now_ms)
    except NoLog as error:
        raise NotRecording("This service records no events (RECORD_EVENTS).", retry_after_seconds=60) from error
    except HideForgotten as error:
        raise NotRemembered(
            "What is hidden cannot be remembered at the moment: send the events again.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        ) from error
    except LogFull as full:
        raise BacklogFull(
            f"No more events can be taken: {full.reason}.", retry_after_seconds=RETRY_AFTER_SECONDS
        ) from full
    except OSError as error:
        raise NotDurable("The disk failed: send the events again.", retry_after_seconds=RETRY_AFTER_SECONDS) from error

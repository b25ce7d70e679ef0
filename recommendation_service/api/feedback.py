"""``POST /feedback``: what people did, acknowledged once it is on the disk."""

from collections.abc import Callable

import msgspec
from starlette.types import Receive, Scope, Send

from recommendation_service.api.access import Access
from recommendation_service.api.bodies import check_head, read_body
from recommendation_service.api.event_bodies import read_events
from recommendation_service.api.feeds import CallLimits
from recommendation_service.core.errors import ServiceError
from recommendation_service.log.event_log import LogFull
from recommendation_service.log.records import FeedbackRecord
from recommendation_service.serving.feedback import Accepted, Feedback, HideForgotten, NoLog
from recommendation_service.serving.worker import worker_of

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
    """The endpoint as an ASGI application."""

    def __init__(self, access: Access, limits: CallLimits, now_ms: Callable[[], int]) -> None:
        self._access = access
        self._limits = limits
        self._now_ms = now_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = self._access.check_api_key(scope)
        codings = check_head(scope)
        self._limits.per_key.check(key)
        now_ms = self._now_ms()
        read = read_events(await read_body(receive, codings), now_ms)
        for user in {record.user_id for record in read}:
            if user:
                self._limits.per_user.check(f"feedback {user}")
        accepted = await _accept(worker_of(scope).feedback, read, now_ms)
        body = msgspec.json.encode({"statusCode": 202, "body": accepted})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": body})


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

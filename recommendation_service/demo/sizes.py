"""How much of everything the demo has: the operator's sizes of today, times the scale."""

from dataclasses import dataclass

from recommendation_service.demo.loading import DemoError

LARGEST_SCALE = 1000.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows by kind. What is called eligible is so by the operator's rules; the rest surrounds it."""

    users: int
    recent_users: int
    deleted_recent_users: int
    creators: int
    deleted_creators: int
    resumes: int
    resumes_deleted: int
    resumes_other_status: int
    resumes_without_video: int
    resumes_old: int
    resumes_test_video: int
    resumes_test_description: int
    resumes_deleted_creator: int
    challenges: int
    challenges_each_ineligible: int
    ratings: int
    accepted_matches: int
    saves: int
    logged_views: int
    connections: int
    pending_connections: int
    older_connections: int
    older_ratings: int
    older_matches: int
    older_saves: int
    other_feedbacks: int
    other_matches: int
    other_likes: int
    activity_rows: int
    older_logged_views: int
    recent_other_activity: int
    resume_views: int
    other_views: int
    exhibitions: int

    @property
    def interactions(self) -> int:
        """Interactions inside the windows."""
        return self.ratings + self.accepted_matches + self.saves + self.logged_views


def sizes_at(scale: float) -> Sizes:
    """The sizes times `scale`, none below what the constant amounts of dirt need."""
    if not 0 < scale <= LARGEST_SCALE:
        raise DemoError(f"The scale must be above 0 and at most {LARGEST_SCALE:g}; 1 is the operator's size.")

    def rows(today: int, least: int = 2) -> int:
        return max(round(today * scale), least)

    return Sizes(
        users=rows(198_000, 2_000),
        recent_users=rows(8_600, 160),
        deleted_recent_users=rows(200),
        creators=rows(1_200, 24),
        deleted_creators=rows(40),
        resumes=rows(2_200, 40),
        resumes_deleted=rows(150),
        resumes_other_status=rows(260, 4),
        resumes_without_video=rows(90),
        resumes_old=rows(1_400),
        resumes_test_video=rows(40, 4),
        resumes_test_description=rows(40, 4),
        resumes_deleted_creator=rows(60),
        challenges=rows(130, 20),
        challenges_each_ineligible=rows(12),
        ratings=rows(5_000, 100),
        accepted_matches=rows(2_500, 50),
        saves=rows(4_500, 90),
        logged_views=rows(18_000, 360),
        connections=rows(900, 20),
        pending_connections=rows(300, 6),
        older_connections=rows(400, 8),
        older_ratings=rows(8_000, 100),
        older_matches=rows(3_000, 60),
        older_saves=rows(6_000, 100),
        other_feedbacks=rows(2_000, 20),
        other_matches=rows(2_000, 20),
        other_likes=rows(3_000, 30),
        activity_rows=rows(400_000, 8_000),
        older_logged_views=rows(60_000, 1_000),
        recent_other_activity=rows(20_000, 400),
        resume_views=rows(120_000, 2_000),
        other_views=rows(30_000, 500),
        exhibitions=rows(60_000, 1_000),
    )

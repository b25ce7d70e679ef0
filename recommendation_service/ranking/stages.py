"""The whole of a feed's computation, on one screen."""

from recommendation_service.ranking.candidates import candidate_pools
from recommendation_service.ranking.compiled import compiled
from recommendation_service.ranking.features import candidate_features
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.linucb import score_candidates
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.slate import assemble, describe
from recommendation_service.ranking.user import load_user

# The stages in order; each reads the frame's catalog and policy, and reads and writes its memory.
STAGES = (
    ("user", load_user),
    ("candidates", candidate_pools),
    ("features", candidate_features),
    ("scores", score_candidates),
    ("slate", assemble),
    ("describe", describe),
)


@compiled
def rank(frame: Frame, request: RankingRequest) -> None:
    """All stages as one call into machine code."""
    load_user(frame, request)
    candidate_pools(frame, request)
    candidate_features(frame, request)
    score_candidates(frame, request)
    assemble(frame, request)
    describe(frame, request)

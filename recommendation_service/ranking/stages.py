"""The whole of a feed's computation, on one screen."""

from recommendation_service.model.columns import CatalogArrays
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.candidates import candidate_pools
from recommendation_service.ranking.compiled import compiled
from recommendation_service.ranking.features import candidate_features
from recommendation_service.ranking.linucb import score_candidates
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.slate import assemble, describe
from recommendation_service.ranking.user import load_user
from recommendation_service.ranking.working_memory import WorkingMemory

# The stages in order; each reads the catalog and the policy, and reads and writes the memory.
STAGES = (
    ("user", load_user),
    ("candidates", candidate_pools),
    ("features", candidate_features),
    ("scores", score_candidates),
    ("slate", assemble),
    ("describe", describe),
)


@compiled
def rank(catalog: CatalogArrays, policy: PolicyArrays, request: RankingRequest, memory: WorkingMemory) -> None:
    """All stages as one call into machine code: handing over the arrays costs as much as a stage."""
    load_user(catalog, policy, request, memory)
    candidate_pools(catalog, policy, request, memory)
    candidate_features(catalog, policy, request, memory)
    score_candidates(catalog, policy, request, memory)
    assemble(catalog, policy, request, memory)
    describe(catalog, policy, request, memory)

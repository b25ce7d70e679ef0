"""What feeds are made from: one immutable value, put in place of the one before by one assignment."""

from typing import NamedTuple

from recommendation_service.catalog.store import Catalog
from recommendation_service.editors.rulings import Ruling
from recommendation_service.policies.experiment import Experiment
from recommendation_service.policies.policy import Policy


class Generation(NamedTuple):
    """A feed is made from one generation whole: never from one's catalog and another's policy."""

    catalog: Catalog
    policy: Policy
    shadows: tuple[Policy, ...] = ()  # of the same pools; what they would have drawn is recorded
    experiment: Experiment | None = None  # people's feeds are made by its arms
    arms: tuple[Policy, ...] = ()  # of the experiment, in its order
    live: tuple[Policy, ...] = ()  # of the shadows, those that make feeds, too, while no experiment runs: ...
    live_share: float = 0.0  # ... each this share of them, by chance
    rulings: tuple[Ruling, ...] = ()  # of editors, that hold now; of all arms

    def with_arms(self, experiment: Experiment | None, arms: tuple[Policy, ...]) -> "Generation":
        """With those of the experiment that runs, where the catalog has what they need."""
        if any(misfit(self.catalog, arm) for arm in arms):
            return self
        return self._replace(experiment=experiment, arms=arms)

    def of_arm(self, policy: Policy) -> "Generation":
        """What feeds of an arm are made from, but for rulings, which are placed once for all. Shadows draw from the
        arm's pools, or are none of its feeds'."""
        shadows = tuple(shadow for shadow in self.shadows if shadow.pools_digest == policy.pools_digest)
        return Generation(self.catalog, policy, shadows)

    def of_live(self, policy: Policy) -> "Generation":
        """Likewise of a live shadow: what serves is beside it, as it is beside what serves."""
        return Generation(self.catalog, policy, (self.policy,))

    @property
    def fits(self) -> bool:
        """Whether the catalog's static sums and orderings are those of the policy: else feeds are not quite its own
        until the next build."""
        return bool(self.catalog.manifest["policy_digest"] == self.policy.catalog_digest)


def misfit(catalog: Catalog, policy: Policy) -> str:
    """Why no feed can be made from these two; empty where it can."""
    types = dict.fromkeys(kind.item for kind in policy.file.kinds.values() if kind.item is not None)
    unknown = [name for name in types if name not in catalog.item_types]
    lacking = catalog.lacks(policy.added_features) + [f"items of type {name}" for name in unknown]
    if not lacking:
        return ""
    return (
        f"policy version {policy.version} cannot be served from catalog {catalog.version}, which lacks "
        f"{', '.join(lacking)}: one that is built with this policy has it"
    )

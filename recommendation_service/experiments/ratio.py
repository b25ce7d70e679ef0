"""Whether people came into the arms as the shares say. Where they did not, something loses feeds of one arm, and what
the arms brought cannot be compared, however large the difference.

Lindon, Malek 2022, "Anytime-valid inference for multinomial count data" (NeurIPS): the Bayes factor of a Dirichlet
prior about the shares against the shares themselves is a martingale where they hold. So it exceeds 1/α at any time with
a probability of α at most, and its reciprocal is a p-value at whatever moment one looks.

What is counted are people, each once: their feeds are not drawn one by one.
"""

from collections.abc import Sequence
from math import exp, lgamma, log

# Of the prior: as if so many people had been seen already, spread as the shares say. Fewer finds large faults sooner,
# more finds small ones sooner. At 100, of two halves, an arm that loses 40 % of its people is found after 600, one that
# loses 5 % after 31,000.
CONCENTRATION = 100.0
# Below it a ratio is off. It is crossed by chance in one of a thousand experiments, at whatever time.
ALARM = 0.001


def log_evidence(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Logarithm of the Bayes factor against the shares; of counts in the order of the shares."""
    total, prior = sum(counts), [CONCENTRATION * share for share in shares]
    found = lgamma(CONCENTRATION) - lgamma(CONCENTRATION + total)
    for count, share, weight in zip(counts, shares, prior, strict=True):
        found += lgamma(weight + count) - lgamma(weight) - count * log(share)
    return found


def p_value(counts: Sequence[int], shares: Sequence[float]) -> float:
    """At any moment at most α with a probability of at most α, where people come as the shares say."""
    return exp(min(0.0, -log_evidence(counts, shares)))

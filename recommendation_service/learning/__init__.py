"""Learning from what people do: rewards of shown items, their sums, and the policy versions that follow from them."""

"""Experiments: who is in which arm, and what the arms' exposures and rewards say; functions over numbers and arrays."""

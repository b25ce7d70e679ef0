"""`make bench`: each figure of the README beside its target, measured here and now."""

"""`make bench`: each figure of docs/performance.md beside its target, measured here and now."""

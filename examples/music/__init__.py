"""A music app: tracks and artists under UUIDs, who listens to what, whom they follow."""

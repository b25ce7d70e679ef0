"""Ranking: pure functions over arrays. Nothing here knows of HTTP or of a database."""

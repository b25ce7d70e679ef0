"""Connections: the server that takes them, their limits, and how it stops."""

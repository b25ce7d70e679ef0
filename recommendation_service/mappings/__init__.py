"""Operators that the package itself knows, each a folder: what its tables mean, and what it calls things."""

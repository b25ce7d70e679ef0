"""Versions on disk: published whole, checked, kept, and taken up by whoever reads."""

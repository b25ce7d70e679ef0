"""Slot kinds and endpoints; the place of each is its number in arrays and records."""

KINDS = ("VMP", "AU", "NU", "FW", "FLOW")
ENDPOINTS = ("total", "discover", "flow")

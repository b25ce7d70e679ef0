"""Personal, diverse feeds over the operator's own tables."""

__version__ = "0.1.0"

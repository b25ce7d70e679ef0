"""The import path that runbooks name: ``api.server:app``."""

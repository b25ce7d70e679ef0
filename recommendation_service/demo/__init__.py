"""Data to try the service on: an invented `interacpedia` database, or the real MovieLens-100K log.

Both are written into the operator's own tables, so that everything downstream of them (the SQL, the catalog,
the feeds) runs on the demo exactly as it runs in production.
"""

from recommendation_service.demo.interacpedia import load_invented
from recommendation_service.demo.loading import DemoError, LoadReport
from recommendation_service.demo.movielens import load_movielens

__all__ = ["DemoError", "LoadReport", "load_invented", "load_movielens"]

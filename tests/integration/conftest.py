"""What several files of this folder begin with."""

from __future__ import annotations

import pytest

from recommendation_service.core.config import Settings


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A job board of a mapping, whose catalog is published."""
    from tests.integration.test_mapped_feeds import built_and_published
    from tests.support.job_board import make_job_board

    folder = tmp_path_factory.mktemp("board")
    address, mapping = make_job_board(folder)
    settings = Settings(data_dir=folder / "data", database_url=address, mapping_file=mapping, catalog_refresher=False)
    built_and_published(settings)
    return settings

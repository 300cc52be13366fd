"""Random models that all runs of a module share."""

from pathlib import Path

import pytest

from tests.resume.runs import write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of random models."""
    return write_models(tmp_path_factory.mktemp("resume-models"))

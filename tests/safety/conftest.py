"""A classifier of toy size."""

from pathlib import Path

import pytest

from tests.toy_classifier import write_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder: red is "nsfw"."""
    return write_toy(tmp_path_factory.mktemp("classifiers") / "toy")

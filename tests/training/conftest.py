"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_training import tiny_params, write_tiny_tokens


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder `data` with tokens, and nothing trained."""
    write_tiny_tokens(tmp_path / "data", tiny_params())
    return tmp_path / "data"

"""What the tests share."""

from pathlib import Path

import pytest

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Folder of real data, which is not part of the repository."""
    if not _DATA.is_dir():
        pytest.skip(f"the real data sets are not here ({_DATA})")
    return _DATA

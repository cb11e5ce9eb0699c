from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _pinned(one_thread):
    """Every test here runs on one thread."""

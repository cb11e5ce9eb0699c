from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest


@cache
def load_table() -> ModuleType:
    path = Path(__file__).with_name("check_table.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of `check_code` once for each code of the table."""
    if "check_code" in metafunc.fixturenames:
        metafunc.parametrize("check_code", list(load_table().TABLE))


@pytest.fixture(scope="session")
def rows() -> ModuleType:
    """The bad rows of tests/unit/data/check_table.py, and what they are made of."""
    return load_table()

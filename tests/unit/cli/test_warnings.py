"""What a model writes is no code of ours that Python should warn of."""

from __future__ import annotations

import warnings

from actune.cli.main import main
from actune.core.values import read_literal


def test_escapes_in_text_of_a_model_are_no_warning(capsys):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["--help"]) == 0
        assert read_literal(r"{'pattern': '\d'}") == {"pattern": r"\d"}
    assert caught == []

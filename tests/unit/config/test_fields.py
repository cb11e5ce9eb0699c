from __future__ import annotations

import subprocess
import sys

from actune.config.fields import BARE_FLAGS, FLAG_ALIASES, index_leaves, list_leaves
from actune.config.suggest import _OTHER_NAMES, suggest


def test_names_are_unique_and_every_setting_is_described() -> None:
    leaves = list_leaves()
    assert len({leaf.name for leaf in leaves}) == len(leaves)
    for leaf in leaves:
        assert leaf.description.endswith("."), leaf.path
        assert "-" not in leaf.name


def test_aliases_lead_to_settings_and_hide_none() -> None:
    index = index_leaves()
    for alias, name in [*FLAG_ALIASES.items(), *_OTHER_NAMES.items()]:
        assert name in index
        assert alias not in index
    assert set(BARE_FLAGS) <= set(index)


def test_type_and_default_in_words() -> None:
    index = index_leaves()
    assert index["eval_batch_size"].type_text == "whole number, 1 or more"
    assert index["lora_dropout_p"].type_text == "number, 0 or more and less than 1"
    assert index["lora_target_modules"].default_text == "ALL"
    assert index["learning_rate"].default_text == "5e-05"
    assert index["packing"].default_text == "true"
    assert index["resume"].default_text == ""


def test_suggestions() -> None:
    index = index_leaves()
    assert suggest("learning-rat", index) == "learning_rate"
    assert suggest("lora_r", index) == "lora_rank"
    assert suggest("lora_r", ["batch_size"]) is None
    assert suggest("Batch_Size", index) == "batch_size"
    assert suggest("qqq", index) is None


def test_settings_load_without_torch() -> None:
    code = "import sys, actune.config.load; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

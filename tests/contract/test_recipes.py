"""The recipes that ship with the project load, and do what their header says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actune.config.load import dump_settings, load_settings, settings_notices

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
NAMES = ("reference", "one_8gb", "one_24gb", "eight_80gb")


def read_header(name: str, what: str) -> int:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    (number,) = re.findall(rf"^# {what}: (\d+)$", text, re.MULTILINE)
    return int(number)


def test_every_recipe_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_loads_without_notices_and_a_step_is_what_its_header_says(name: str) -> None:
    settings = load_settings(FOLDER / f"{name}.yaml", [])
    assert settings_notices(settings) == []
    training = settings.training
    rows = training.batch_size * training.gradient_accumulation_steps * read_header(name, "processes")
    assert rows == read_header(name, "conversations per step")
    # The reference's "32" counts accumulation x processes; with its batch_size 2 that makes 64 conversations.
    assert rows == 64


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reference"])
def test_recipes_for_other_machines_keep_the_reference_s_method(name: str) -> None:
    """They may differ in model, batch layout and output, and in nothing that decides what is learnt."""
    reference, other = (dump_settings(load_settings(FOLDER / f"{each}.yaml", [])) for each in ("reference", name))
    layout = {"batch_size", "gradient_accumulation_steps", "micro_batch_tokens", "gradient_checkpointing"}
    for group in ("data", "render", "tuning", "training"):
        changed = {key for key, value in other[group].items() if reference[group][key] != value}
        assert changed <= layout | {"model_name", "model_author"}


def test_the_reference_recipe_has_the_values_of_the_reference_command() -> None:
    command = """
    --model_id_or_path Qwen/Qwen2.5-7B-Instruct --sft_type lora --dtype AUTO --output_dir output --dataset ms-agent
    --train_dataset_mix_ratio 2.0 --train_dataset_sample -1 --num_train_epochs 2 --max_length 2048
    --check_dataset_strategy warning --lora_rank 8 --lora_alpha 32 --lora_dropout_p 0.05 --lora_target_modules ALL
    --self_cognition_sample 3000 --model_name 卡卡罗特 --model_author 陶白白 --gradient_checkpointing true --batch_size 2
    --weight_decay 0.01 --learning_rate 5e-5 --gradient_accumulation_steps 4 --max_grad_norm 0.5 --warmup_ratio 0.03
    --eval_steps 100 --save_steps 100 --save_total_limit 2 --logging_steps 10
    """
    assert load_settings(FOLDER / "reference.yaml", []) == load_settings(None, command.split())

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from actune.config.load import check_settings, dump_settings, load_settings, settings_notices
from actune.config.settings import Settings
from actune.core.errors import ConfigError

NEEDED = ["--model", "m", "--dataset", "a.jsonl"]


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(*flags: str) -> Settings:
    return load_settings(None, [*NEEDED, *flags])


def refuse(recipe: Path | None, *flags: str) -> list[str]:
    """Return the lines of the error, with the folder of the recipe cut off."""
    with pytest.raises(ConfigError) as caught:
        load_settings(recipe, flags)
    assert caught.value.exit_code == 2
    text = caught.value.message
    if recipe is not None:
        text = text.replace(f"{recipe.parent}/", "")
    return [line.strip() for line in text.splitlines()]


def test_recipe_values_are_read_by_the_type_of_the_setting(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model: {model_id_or_path: m, model_revision: 1.10, chat_template: null}\n"
        "data:\n  dataset: a.jsonl\n  model_name: ['007', 卡卡罗特]\n  max_length: 1e4\n"
        "training:\n  learning_rate: 5e-5\n  num_train_epochs: 3\n  gradient_checkpointing: yes\n  packing: off\n"
        "render:\n  now: 2024-02-29\n"
        "tuning:\n",
    )
    settings = load_settings(path, [])
    assert settings.model.model_revision == "1.10"  # YAML's guess would be the number 1.1
    assert settings.model.chat_template is None
    assert settings.data.dataset == ("a.jsonl",)
    assert settings.data.model_name == ("007", "卡卡罗特")
    assert settings.data.max_length == 10000
    assert settings.training.learning_rate == 5e-5
    assert isinstance(settings.training.num_train_epochs, float)
    assert settings.training.gradient_checkpointing == "true"
    assert settings.training.packing == "false"
    assert settings.render.now == datetime.date(2024, 2, 29)
    assert settings.tuning == Settings().tuning


@pytest.mark.parametrize(
    "written",
    [
        "{thought: 0.5, action: 2}",
        "[thought=0.5, action=2]",
        "\n    thought: 0.5\n    action: 2",
    ],
)
def test_pairs_are_a_mapping_or_a_list(tmp_path: Path, written: str) -> None:
    settings = load_settings(write(tmp_path, f"render:\n  loss_weights: {written}\n"), NEEDED)
    assert settings.render.loss_weights == ("thought=0.5", "action=2")
    assert load("--loss_weights", "thought=0.5", "action=2").render == settings.render


def test_values_of_a_mapping_are_texts_and_switches(tmp_path: Path) -> None:
    path = write(tmp_path, "render: {template_variables: {enable_thinking: no, name: '007', more: 1.50}}\n")
    assert load_settings(path, NEEDED).render.template_variables == ("enable_thinking=false", "name=007", "more=1.50")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{thoughts: 1}", "thoughts=1: no such part; did you mean thought?"),
        ("{stop: 1, stop: 2}", "stop: is given twice"),
        ("{stop: [1]}", "takes NAME=VALUE ..., not a list"),
        ("{tool: 1}", "tool=1: the agent never writes"),
        ("{assistant: 0}", "every part has weight 0"),
    ],
)
def test_wrong_loss_weights_are_placed(tmp_path: Path, written: str, message: str) -> None:
    (line,) = refuse(write(tmp_path, f"\nrender: {{loss_weights: {written}}}\n"), *NEEDED)
    assert line.startswith("r.yaml:2: render.loss_weights")
    assert message in line


def test_a_mapping_where_values_are_asked_for_is_refused(tmp_path: Path) -> None:
    (line,) = refuse(write(tmp_path, "data: {dataset: {a: b}}\n"), "--model", "m")
    assert line == "r.yaml:1: data.dataset: takes text ..., not a mapping"


def test_weights_that_change_nothing_or_teach_no_end_are_said() -> None:
    assert settings_notices(load("--loss_weights", "thought=0.5")) == []
    (said,) = settings_notices(load("--loss_weights", "assistant=2"))
    assert "changes nothing" in said
    (said,) = settings_notices(load("--loss_weights", "stop=0"))
    assert "not taught to end" in said


def test_every_problem_of_file_and_flags_is_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model:\n"
        "  model_id_or_path: m\n"
        "  dtyp: bf16\n"
        "data:\n"
        "  dataset: [a.jsonl]\n"
        "  model_name: no\n"
        "  max_length: abc\n"
        "  seed: 1\n"
        "training:\n"
        "  batch_size: 0\n"
        "  batch_size: 4\n"
        "trainnig: {seed: 1}\n"
        "lora_rank: 3\n",
    )
    lines = refuse(path, "--batch_szie", "3", "--eval-steps=-1", "--overwrite", "--resume")
    assert lines == [
        "11 problems in the settings:",
        "r.yaml:3: model.dtyp: no such setting; did you mean dtype?",
        "r.yaml:6: data.model_name: is text, but YAML reads no as true or false; write it in quotes: 'no'",
        "r.yaml:7: data.max_length: must be a whole number, not 'abc'",
        "r.yaml:8: data.seed: belongs in the group training: training.seed",
        "r.yaml:10: training.batch_size: must be 1 or more, not 0",
        "r.yaml:11: training.batch_size: is given twice; the first is in line 10",
        "r.yaml:12: trainnig: no such group; did you mean training?",
        "r.yaml:13: lora_rank: belongs in the group tuning: tuning.lora_rank",
        "--batch_szie: no such flag; did you mean --batch_size?",
        "--eval-steps: must be 0 or more, not -1",
        "--overwrite: cannot be used together with resume: it would remove the run that resume reads",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n", "r.yaml:1: a recipe is a mapping of groups: model, data, render, tuning, training, monitor, output"),
        ("data: [1]\n", "r.yaml:1: data: is a group; write settings below it, as dataset: ..."),
        ("data: {dataset: [[a]]}\n", "data.dataset: takes text ..., not a list or mapping inside a list"),
        ("data: {max_length: [1]}\n", "data.max_length: takes one value (whole number, -1 or more), not a list"),
        ("data: {max_length: {a: 1}}\n", "data.max_length: takes whole number, -1 or more, not a mapping"),
        ("data: {max_length: }\n", "data.max_length: has no value; write one or leave the line out"),
        ("data: {max_length: 010}\n", "data.max_length: must be a whole number, not '010'"),
        ("training: {batch_size: true}\n", "training.batch_size: must be a whole number, not 'true'"),
        ("training: {learning_rate: .inf}\n", "training.learning_rate: must be a number, not '.inf'"),
        ("training: {fused: 1}\n", "training.fused: must be true or false, not '1'"),
        ("training: {packing: some}\n", "training.packing: must be true, false or global, not 'some'"),
        ("training: {lr: 1}\n", "training.lr: no such setting; did you mean learning_rate?"),
        ("tuning: {sft_type: lore}\n", "tuning.sft_type: must be lora or full, not 'lore'"),
        ("tuning: {lora_dropout_p: 1}\n", "tuning.lora_dropout_p: must be 0 or more and less than 1, not 1.0"),
        ("render: {now: 2024-02-30}\n", "render.now: is no date: '2024-02-30'"),
        ("model: {model_id_or_path: !!python/name:os.system x}\n", "YAML tags are not supported"),
        ("a: &a {seed: 1}\ntraining:\n  <<: *a\n", "r.yaml:3: training.<<: merging (<<) is not supported"),
        ("data:\n  dataset: [a\nmodel: {}\n", "r.yaml:3: no valid YAML:"),
        ("data: {}\n---\ndata: {}\n", "r.yaml:2: no valid YAML:"),
        ("a: 1\nb: \x07\n", "r.yaml:2: no valid YAML: a control character in the text"),
    ],
)
def test_bad_recipes_name_line_and_reason(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in line for line in refuse(write(tmp_path, text), *NEEDED))


def test_a_recipe_that_cannot_be_read_says_nothing_about_missing_settings(tmp_path: Path) -> None:
    assert refuse(tmp_path / "none.yaml") == ["none.yaml: the recipe file does not exist"]
    path = tmp_path / "r.yaml"
    path.write_bytes("data: {dataset: 数据}".encode("gbk"))
    assert refuse(path) == ["r.yaml: is no UTF-8 text (byte 16)"]
    assert "cannot be read" in refuse(tmp_path)[0]


def test_a_misspelt_group_does_not_also_count_as_missing_settings(tmp_path: Path) -> None:
    path = write(tmp_path, "modle: {model_id_or_path: m}\ndata: {dataset: [a]}\n")
    assert refuse(path) == ["r.yaml:1: modle: no such group; did you mean model?"]


def test_python_objects_in_a_recipe_are_never_built(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = write(tmp_path, f"data: !!python/object/apply:pathlib.Path.touch [!!python/name:x, {mark}]\n")
    refuse(path)
    assert not mark.exists()


def test_flags_override_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {batch_size: 3, seed: 7}\ndata: {dataset: [a, b]}\n")
    settings = load_settings(path, ["--model", "m", "--batch_size", "5", "--dataset", "c"])
    assert (settings.training.batch_size, settings.training.seed) == (5, 7)
    assert settings.data.dataset == ("c",)


@pytest.mark.parametrize(
    ("flags", "place", "expected"),
    [
        (["--train_dataset_sample", "-1"], "data.train_dataset_sample", -1),
        (["--train-dataset-mix-ratio=0.25"], "data.train_dataset_mix_ratio", 0.25),
        (["--model_name", "卡卡罗特", "Kakarot"], "data.model_name", ("卡卡罗特", "Kakarot")),
        (["--model_name", "a", "--model_name=b"], "data.model_name", ("a", "b")),
        (["--dry-run"], "output.dry_run", True),
        (["--dry_run", "no"], "output.dry_run", False),
        (["--resume"], "output.resume", "auto"),
        (["--resume", "out/checkpoint-3"], "output.resume", "out/checkpoint-3"),
        (["--overwrite", "--seed", "1"], "output.overwrite", True),
        (["--gradient_checkpointing", "true"], "training.gradient_checkpointing", "true"),
        (["--gradient_checkpointing"], "training.gradient_checkpointing", "true"),
        (["--dtype", "auto"], "model.dtype", "AUTO"),
        (["--eval_batch_size", "null"], "training.eval_batch_size", None),
        (["--output_dir="], "output.output_dir", None),
        (["--seed", "1", "--seed", "1"], "training.seed", 1),
    ],
)
def test_flag_forms(flags: list[str], place: str, expected: object) -> None:
    if expected is None and "=" in flags[0]:
        assert refuse(None, *NEEDED, *flags) == ["--output_dir: is empty; name a folder"]
        return
    group, name = place.split(".")
    assert getattr(getattr(load(*flags), group), name) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--seed"], "--seed: needs a value: whole number, 0 or more and less than 4294967296"),
        (["--model_name"], "--model_name: needs a value: text ..."),
        (["--seed", "1", "2"], "2: unexpected; the recipe file comes first, then --flag value pairs"),
        (["-seed", "1"], "-seed: flags start with two dashes: --seed"),
        (["--training.batch_size", "1"], "--training.batch_size: no such flag; did you mean --batch_size?"),
        (["--per_device_train_batch_size", "1"], "no such flag; did you mean --batch_size?"),
        (["--zzz", "1", "2"], "--zzz: no such flag"),
        (["--", "x"], "--: unexpected"),
    ],
)
def test_bad_flags(flags: list[str], expected: str) -> None:
    assert any(expected in line for line in refuse(None, *NEEDED, *flags))


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--self_cognition_sample", "3"], "model_name"),
        (["--self_cognition_sample", "3", "--model_name", "a"], "model_author"),
        (["--model_name", "a", "b", "c"], "model_name"),
        (["--model_author", " "], "model_author"),
        (["--train_dataset_sample", "0"], "train_dataset_sample"),
        (["--max_length", "0"], "max_length"),
        (["--max_steps", "0"], "max_steps"),
        (["--validation_ratio", "1"], "validation_ratio"),
        (["--resume="], "resume"),
        (["--resume", "--overwrite"], "overwrite"),
    ],
)
def test_settings_that_do_not_fit_together(flags: list[str], name: str) -> None:
    if name == "resume":  # an empty value resets it, which is allowed
        assert load(*flags).output.resume is None
        return
    assert any(name in line for line in refuse(None, *NEEDED, *flags))


def test_what_is_missing_is_named_with_its_flag() -> None:
    assert refuse(None) == [
        "2 problems in the settings:",
        "model.model_id_or_path (--model_id_or_path): not set; name a model folder or a hub id",
        "data.dataset (--dataset): not set; name a file, a registry name (ms-agent) or a hub id",
    ]


def test_settings_built_in_python_are_checked_the_same_way() -> None:
    with pytest.raises(ConfigError, match="model_id_or_path"):
        check_settings(Settings())
    check_settings(load())
    assert (
        Settings.model_validate({"training": {"gradient_checkpointing": True}}).training.gradient_checkpointing
        == "true"
    )


def test_notices_name_settings_that_are_read_differently_or_not_at_all() -> None:
    assert settings_notices(load()) == []
    notices = settings_notices(load("--tuner_backend", "swift", "--model_name", "a", "--sft_type", "full"))
    assert [notice.split()[0] for notice in notices] == ["tuner_backend", "model_name"]
    assert settings_notices(load("--sft_type", "full", "--lora_rank", "4")) == [
        "lora_rank has no effect: sft_type is full"
    ]
    assert settings_notices(load("--train_dataset_mix_ds", "x")) == [
        "train_dataset_mix_ds has no effect: train_dataset_mix_ratio is 0"
    ]
    assert "trust_remote_code" in settings_notices(load("--trust_remote_code"))[0]


def test_a_dump_is_json_and_rebuilds_the_settings() -> None:
    import json

    settings = load("--now", "2024-02-29", "--model_name", "卡", "--lora_alpha", "16")
    text = json.dumps(dump_settings(settings))
    again = Settings.model_validate(json.loads(text))
    assert again == settings
    assert json.dumps(dump_settings(again)) == text
    assert json.dumps(dump_settings(Settings.model_validate(dump_settings(Settings())))) == json.dumps(
        dump_settings(Settings())
    )


def test_the_last_of_a_repeated_flag_counts_and_lists_add_up() -> None:
    flags = [*["--model", "m", "--dataset", "a", "--seed", "1", "--seed", "2", "--dataset", "b"]]
    settings = load_settings(None, flags)
    assert settings.training.seed == 2
    assert settings.data.dataset == ("a", "b")

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

from actune.cli.main import main
from actune.recipes.traces import TraceChoice

RENDERING = {"dialect": None, "now": None, "format_name": None, "chat_template": None}
GIVEN = {"allow_loss": (), "template_variables": (), "loss_weights": ()}
FIXING = {"against": (), "fix": None, "overwrite": False}
HISTORY = {"history_reasoning": None, "raw_control_tokens": False}

EXPORT = {"gguf_type": None, "push_to_hub": None, "public": False, "card_language": "en"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    """Calls of `actune.recipes`, which returns 1 from every function."""
    recorded: list[tuple[str, dict[str, object]]] = []
    module = ModuleType("actune.recipes")

    def record(name: str) -> None:
        def call(*args: object, **arguments: object) -> int:
            recorded.append((name, {**arguments, **({"settings": args[0]} if args else {})}))
            return 1

        setattr(module, name, call)

    for name in ("sft", "tokens", "inspect", "check", "convert", "export"):
        record(name)
    monkeypatch.setitem(sys.modules, "actune.recipes", module)
    monkeypatch.setattr("actune.recipes", module, raising=False)
    return recorded


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (
            "tokens --model m --data a b --out o",
            {"model": "m", "data": ["a", "b"], "out": Path("o"), "max_length": -1, **RENDERING, **HISTORY, **GIVEN},
        ),
        (
            "tokens --model m --data a --data b --out o --dialect react_zh --now 2024-02-29 --format f "
            "--chat-template t --history_reasoning drop --raw_control_tokens --max_length 9 --allow_loss reasoning "
            "content --template_variables enable_thinking=false --loss_weights thought=0.5 stop=2",
            {
                "model": "m",
                "data": ["a", "b"],
                "out": Path("o"),
                "dialect": "react_zh",
                "now": date(2024, 2, 29),
                "format_name": "f",
                "chat_template": "t",
                "history_reasoning": "drop",
                "raw_control_tokens": True,
                "max_length": 9,
                "allow_loss": ["reasoning", "content"],
                "template_variables": ["enable_thinking=false"],
                "loss_weights": ["thought=0.5", "stop=2"],
            },
        ),
        (
            "inspect --model m --data a b --row 3 --html o.html --limit 9 --max_length 7",
            {
                "model": "m",
                "data": ["a", "b"],
                "row": 3,
                "html": Path("o.html"),
                "limit": 9,
                "max_length": 7,
                **RENDERING,
                **HISTORY,
                **GIVEN,
            },
        ),
        (
            "inspect --model m --data a",
            {
                "model": "m",
                "data": ["a"],
                "row": None,
                "html": None,
                "limit": 200,
                "max_length": None,
                **RENDERING,
                **HISTORY,
                **GIVEN,
            },
        ),
        ("check a b --json", {"data": ["a", "b"], "model": None, "json_output": True, **RENDERING, **GIVEN, **FIXING}),
        ("check --model m a", {"data": ["a"], "model": "m", "json_output": False, **RENDERING, **GIVEN, **FIXING}),
        (
            "check a --against b c --fix o.jsonl --overwrite",
            {
                "data": ["a"],
                "model": None,
                "json_output": False,
                **RENDERING,
                **GIVEN,
                "against": ["b", "c"],
                "fix": Path("o.jsonl"),
                "overwrite": True,
            },
        ),
        (
            "convert i o --to openai",
            {
                "source": Path("i"),
                "out": Path("o"),
                "to": "openai",
                "dialect": None,
                "format_name": None,
                "overwrite": False,
                "traces": TraceChoice(),
            },
        ),
        (
            "convert i o --to ms-agent --dialect react_zh --format sharegpt --overwrite",
            {
                "source": Path("i"),
                "out": Path("o"),
                "to": "ms-agent",
                "dialect": "react_zh",
                "format_name": "sharegpt",
                "overwrite": True,
                "traces": TraceChoice(),
            },
        ),
        (
            "convert i o --to trace --stop_reason answer steps --bad_steps untrain --min_steps 1 --max_steps 2 --with_tools a"
            " --keep_if k.py --scores s.jsonl --metric m --min_score 0.5 --unique --per_task 3",
            {
                "source": Path("i"),
                "out": Path("o"),
                "to": "trace",
                "dialect": None,
                "format_name": None,
                "overwrite": False,
                "traces": TraceChoice(
                    stop_reason=("answer", "steps"),
                    bad_steps="untrain",
                    min_steps=1,
                    max_steps=2,
                    with_tools=("a",),
                    keep_if=Path("k.py"),
                    scores=Path("s.jsonl"),
                    metric="m",
                    min_score=0.5,
                    unique=True,
                    per_task=3,
                ),
            },
        ),
        (
            "export --model r --to merged --out o --adapter a --verify --overwrite",
            {
                "model": "r",
                "adapter": "a",
                "to": "merged",
                "out": Path("o"),
                "verify": True,
                "overwrite": True,
                **EXPORT,
            },
        ),
        (
            "export --model r --to merged --out o",
            {
                "model": "r",
                "adapter": None,
                "to": "merged",
                "out": Path("o"),
                "verify": False,
                "overwrite": False,
                **EXPORT,
            },
        ),
    ],
)
def test_a_command_line_becomes_one_call_and_its_exit_code(
    calls: list[tuple[str, dict[str, object]]], line: str, arguments: dict[str, object]
) -> None:
    assert main(line.split()) == 1
    assert calls == [(line.split()[0], arguments)]


def test_sft_hands_over_settings(calls: list[tuple[str, dict[str, object]]], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: {dataset: [a]}\n", encoding="utf-8")
    assert main(["sft", str(recipe), "--model", "m", "--seed", "5"]) == 1
    settings = calls[0][1]["settings"]
    assert (settings.data.dataset, settings.model.model_id_or_path, settings.training.seed) == (("a",), "m", 5)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("chekc a", 'Did you mean "check"?'),
        ("--hlep", "Unknown command"),
        ("check a --jsno", "Did you mean --json?"),
        ("check", "DATA is missing"),
        ("tokens --data a --out o", "--model is missing"),
        ("tokens --model m --data a --out o --now 2024-02-30", "--now"),
        ("tokens --model m --data a --out o --dialect chta", 'Did you mean "chat"?'),
        ("inspect --model m --data a --row x", "--row"),
        ("export --model m --to gguff --out o", "merged"),
        ("sft --batch_szie 2", "did you mean --batch_size?"),
        ("sft nowhere.yaml", "nowhere.yaml: the recipe file does not exist"),
    ],
)
def test_wrong_requests_exit_with_2_and_call_nothing(
    calls: list[tuple[str, dict[str, object]]], capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert expected in captured.err
    assert "fix: " in captured.err
    assert captured.out == ""
    assert calls == []


def test_of_several_processes_the_first_explains_wrong_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("actune.cli.sft._SPEAKING_SECONDS", 0)
    assert main(["sft", "--nope"]) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tokens --model m --data d", "error: --out is missing."),
        ("tokens --model m --data d --out", "error: --out needs a value."),
        ("check", "error: DATA is missing."),
    ],
)
def test_a_flag_left_out_is_told_from_one_without_value(
    capsys: pytest.CaptureFixture[str], calls: list[tuple[str, dict[str, object]]], line: str, expected: str
) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr().err.startswith(expected)
    assert calls == []

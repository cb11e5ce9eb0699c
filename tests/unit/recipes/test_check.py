"""`actune check --model`: every loss of every row, and what the template does."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from actune import recipes
from actune.core.errors import ConfigError

TOOLS = [{"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {
    "type": "object", "properties": {"what": {"type": "string"}}}}}]  # fmt: skip


def call(what: str, number: int) -> dict:
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": "find", "arguments": {"what": what}}}


ROW = {
    "tools": TOOLS,
    "messages": [
        {"role": "user", "content": "Where are they?"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Two of them.", "tool_calls": [call("a", 1), call("b", 2)]},
        {"role": "tool", "tool_call_id": "call00001", "content": "here"},
        {"role": "tool", "tool_call_id": "call00002", "content": "there"},
        {"role": "assistant", "content": "Here and there.", "reasoning_content": "Both found."},
    ],
}  # fmt: skip


def check(
    folder: Path, kit: ModuleType, answer: str, capsys: pytest.CaptureFixture[str], **options: object
) -> tuple[int, dict]:
    data, template = folder / "rows.jsonl", folder / "template.jinja"
    data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    template.write_text(kit.make_template(answer), encoding="utf-8")
    code = recipes.check(
        data=[str(data)],
        dialect=None,
        json_output=True,
        format_name=None,
        chat_template=str(template),
        now=None,
        **options,
    )  # pyrefly: ignore
    return code, json.loads(capsys.readouterr().out)


def test_all_losses_are_listed_with_a_fix(tmp_path, native_kit, tokenizer_folder, capsys):
    code, report = check(tmp_path, native_kit, native_kit.ANSWERS["bare json"], capsys, model=str(tokenizer_folder))
    assert code == 1
    found = {(problem["code"], problem["field"]) for problem in report["problems"]}
    assert {
        ("reasoning-lost", "messages[1].reasoning"), ("content-lost", "messages[1].content"),
        ("call-lost", "messages[1].tool_calls[1]"), ("reasoning-lost", "messages[4].reasoning"),
    } <= found  # fmt: skip
    assert all(problem["level"] == "error" and problem["fix"] for problem in report["problems"])
    assert report["ok"] == 0
    assert report["template"]["survey"]["calls"] == "kept, arguments as dict"


def test_an_allowed_loss_is_a_warning(tmp_path, native_kit, tokenizer_folder, capsys):
    names = ["reasoning,content", "call", "history"]
    code, report = check(
        tmp_path, native_kit, native_kit.ANSWERS["bare json"], capsys, model=str(tokenizer_folder), allow_loss=names
    )
    assert code == 0
    assert report["ok"] == 1
    assert {problem["level"] for problem in report["problems"]} == {"warning"}
    code, report = check(
        tmp_path,
        native_kit,
        native_kit.ANSWERS["bare json"],
        capsys,
        model=str(tokenizer_folder),
        allow_loss=["content"],
    )
    assert code == 1
    assert {problem["code"] for problem in report["problems"] if problem["level"] == "warning"} == {"content-lost"}


def test_a_faithful_template_has_nothing_to_report(tmp_path, native_kit, tokenizer_folder, capsys):
    code, report = check(tmp_path, native_kit, native_kit.ANSWERS["json in tags"], capsys, model=str(tokenizer_folder))
    assert (code, report["ok"], report["problems"]) == (0, 1, [])


def test_a_loss_that_is_none(tmp_path, native_kit, tokenizer_folder, capsys):
    with pytest.raises(ConfigError, match="reasonning"):
        check(
            tmp_path,
            native_kit,
            native_kit.ANSWERS["bare json"],
            capsys,
            model=str(tokenizer_folder),
            allow_loss=["reasonning"],
        )

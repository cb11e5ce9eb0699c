"""`actune check`: losses under a model's template, prompts that stand elsewhere, and repairs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from actune import recipes
from actune.cli.main import main
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


# --- rows beside each other, and repairs ------------------------------------------------------------------------------


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def chat(question: str, answer: str = "Hello!", **more: object) -> dict:
    return {**more, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def found_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = main(["check", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def listed(report: dict, code: str) -> list[tuple[str, int]]:
    return [(Path(one["file"]).name, one["line"]) for one in report["problems"] if one["code"] == code]


def test_prompts_of_one_file_in_another(tmp_path, capsys):
    one = write(tmp_path / "a.jsonl", chat("Hi"), chat("Who are you?", "A."))
    two = write(tmp_path / "b.jsonl", chat("who are you", "B."), chat("Where is Rome?"))
    code, report = found_by(capsys, one, two)
    assert code == 0
    assert listed(report, "prompt-overlap") == [("b.jsonl", 1)]
    assert "a.jsonl:2" in report["problems"][0]["message"]
    assert found_by(capsys, one)[1]["problems"] == []


def test_prompts_of_held_out_data_are_errors(tmp_path, capsys):
    data = write(
        tmp_path / "a.jsonl", chat("Hi"), chat("Who are you?", "A."), chat("Tell me", "B."), chat("WHO are you", "C.")
    )
    held = write(tmp_path / "held.jsonl", chat("who are you", "D."))
    code, report = found_by(capsys, data, "--against", held)
    assert (code, report["rows"], report["ok"]) == (1, 4, 2)
    assert listed(report, "eval-overlap") == [("a.jsonl", 2), ("a.jsonl", 4)]
    assert {one["level"] for one in report["problems"] if one["code"] == "eval-overlap"} == {"error"}
    out = tmp_path / "out.jsonl"
    code, report = found_by(capsys, data, "--against", held, "--fix", str(out))
    assert code == 1
    assert report["fixed"]["quarantined"] == 2
    assert [json.loads(line)["messages"][0]["content"] for line in out.read_text().splitlines()] == ["Hi", "Tell me"]


LITERAL = {"source": "web", "tools": TOOLS, "messages": [
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": "{'what': 'a'}"}}]},
    {"role": "tool", "content": "here"},
    {"role": "assistant", "content": "Here."},
]}  # fmt: skip


def test_fix_writes_every_row_or_says_why_not(tmp_path, capsys):
    plain = '{ "messages":[{"role":"user","content":"caf\\u00e9"},{"role":"assistant","content":"Oui."}] }'
    data = tmp_path / "a.jsonl"
    lines = [
        plain,
        json.dumps(LITERAL),
        "",
        "{broken",
        json.dumps(chat("Hi")),
        json.dumps(chat("Hi", id="again")),
        plain,
    ]
    data.write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    code, report = found_by(capsys, str(data), "--fix", str(out))
    assert code == 1  # a row had to be left out
    assert report["fixed"] == {
        "file": str(out), "format": "openai", "rows": 6, "written": 3, "quarantined": 1, "removed": 2,
    }  # fmt: skip
    written = out.read_text(encoding="utf-8").splitlines()
    assert written[0] == plain
    assert json.loads(written[1])["source"] == "web"
    assert json.loads(written[1])["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"what": "a"}'
    repairs = [json.loads(line) for line in (tmp_path / "out.jsonl.repairs.jsonl").read_text().splitlines()]
    assert repairs == report["repairs"]
    assert [(one["code"], one["line"]) for one in repairs] == [
        ("arguments-python-literal", 2), ("duplicate-row", 6), ("duplicate-row", 7),
    ]  # fmt: skip
    (left_out,) = (tmp_path / "out.jsonl.quarantine.jsonl").read_text().splitlines()
    assert (json.loads(left_out)["line"], json.loads(left_out)["code"]) == (4, "json-invalid")
    again = tmp_path / "again.jsonl"
    code, report = found_by(capsys, str(out), "--fix", str(again))
    assert (code, report["repairs"], again.read_bytes()) == (0, [], out.read_bytes())
    assert {path.name for path in tmp_path.glob("again*")} == {"again.jsonl"}


def test_fix_of_other_formats(tmp_path, capsys):
    """One format that can be written stays; several become openai."""
    react = write(tmp_path / "alpaca.jsonl", {"instruction": "Hi", "input": "", "output": "Hello!", "score": 1})
    out = tmp_path / "out.jsonl"
    assert found_by(capsys, react, "--fix", str(out))[1]["fixed"]["format"] == "alpaca"
    assert out.read_bytes() == Path(react).read_bytes()
    other = write(tmp_path / "b.jsonl", chat("Who?"))
    code = main(["check", react, other, "--fix", str(out), "--overwrite"])
    text = capsys.readouterr()
    assert code == 0
    assert "alpaca, openai are different formats" in text.err
    assert "2 of 2 rows written" in text.out
    assert [list(json.loads(line)) for line in out.read_text().splitlines()] == [["messages"], ["messages"]]


def test_fix_says_before_and_after(tmp_path, capsys):
    assert main(["check", write(tmp_path / "a.jsonl", LITERAL), "--fix", str(tmp_path / "o.jsonl")]) == 0
    text = capsys.readouterr().out
    assert "repaired arguments-python-literal: 1" in text
    assert "{'what': 'a'} -> {\"what\": \"a\"}" in text
    assert f"1 repairs, listed in {tmp_path / 'o.jsonl.repairs.jsonl'}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.jsonl", "--fix", "a.jsonl"], "is read from"),
        (["a.jsonl", "--fix", "out.json"], "out.jsonl"),
        (["a.jsonl#1", "--fix", "out.jsonl"], "#N"),
        (["a.jsonl", "--fix", "there.jsonl"], "--overwrite"),
        (["a.jsonl", "--fix", "new.jsonl"], "new.jsonl.repairs.jsonl is there"),
        (["a.jsonl", "--against", "a.jsonl"], "as held-out data"),
        (["broken.jsonl", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_what_is_refused(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", chat("Hi"))
    (tmp_path / "there.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text("{}")  # told only if it is read
    (tmp_path / "new.jsonl.repairs.jsonl").touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["check", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.shared
def test_the_identity_prompts_inside_the_agent_rows_are_found(shared, capsys):
    agent, identity = shared / "data/agent/doraemon_msagent.jsonl", shared / "data/identity/llamafactory_identity.json"
    _, report = found_by(capsys, str(agent), str(identity))
    lines = [line for _, line in listed(report, "prompt-overlap")]
    asked = {
        line: row["instruction"] for line, row in zip(range(2, 1000, 5), json.loads(identity.read_text()), strict=False)
    }
    prompts = {"".join(filter(str.isalnum, asked[line].casefold())) for line in lines}
    assert len(prompts) == 62


def test_weights_that_cannot_be_laid_are_found(tmp_path, native_kit, tokenizer_folder, capsys):
    given = {"model": str(tokenizer_folder), "allow_loss": ["reading", "call", "arguments", "reasoning", "content"]}
    codes = {}
    for weights in ((), ("action=2",)):
        code, report = check(tmp_path, native_kit, native_kit.APART, capsys, loss_weights=weights, **given)
        codes[weights] = code, {problem["code"] for problem in report["problems"] if problem["level"] == "error"}
    assert codes == {(): (0, set()), ("action=2",): (1, {"parts-unknown"})}

"""Allow, deny, ask-before-run: what the model is told, what is run, what a person is shown and answers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from actune.agents.tools.loading import load_toolbox
from actune.agents.tools.permission import Gate, Permission
from actune.agents.tools.tool import Tool
from actune.agents.tools.toolbox import Toolbox
from actune.core.errors import ConfigError
from actune.core.types import ToolCall, ToolSpec
from actune.recipes.approval import ask_approval, make_approver

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}


def make_box(permission: Permission, answers=(), *, nobody: bool = False) -> tuple[Toolbox, list, list]:
    """Return a toolbox of three tools, what was run, and what a person was asked."""
    done: list = []
    asked: list = []
    left = list(answers)

    def approve(call: ToolCall, tool: Tool) -> str:
        asked.append((call.name, call.arguments, tool.hints))
        return left.pop(0)

    def make(name: str, **more) -> Tool:
        def run(arguments):
            done.append((name, arguments))
            return "done"

        return Tool(spec=ToolSpec(name=name, parameters=SCHEMA), call=run, **more)

    tools = [make("read"), make("delete", aliases=("files__delete",), hints=("may destroy",)), make("old", inline=True)]
    gate = Gate(permission, None if nobody else approve)
    return Toolbox([tool.spec for tool in tools], tools, gate=gate), done, asked


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name=name, arguments=json.dumps(arguments))


@pytest.mark.parametrize(
    ("permission", "names"),
    [
        (Permission(), ["read", "delete", "old"]),
        (Permission(deny=("delete",)), ["read", "old"]),
        (Permission(deny=("files__*",)), ["read", "old"]),
        (Permission(allow=("read",)), ["read"]),
        (Permission(allow=("*",), deny=("[ro]*",)), ["delete"]),
        (Permission(ask=("all",)), ["read", "delete", "old"]),
    ],
)
def test_what_the_model_is_told(permission, names):
    toolbox, _, _ = make_box(permission, ["yes"] * 3)
    assert [spec.name for spec in toolbox.specs] == names


def test_a_denied_tool_is_never_run():
    toolbox, done, asked = make_box(Permission(deny=("delete",), ask=("all",)))
    hidden = toolbox.call(call("delete"))
    assert (hidden.error, hidden.text) == ("unknown-tool", "no tool named 'delete'; there are: read, old")
    listed = toolbox.call(call("delete"), [ToolSpec(name="delete", parameters=SCHEMA)])
    assert (listed.error, listed.text) == ("tool-denied", "the tool 'delete' may not be called here")
    assert (done, asked) == ([], [])


def test_a_person_is_asked_before_each_call():
    toolbox, done, asked = make_box(Permission(ask=("delete", "old")), ["no", "yes", "that is my thesis"])
    calls = [call("delete", path="a"), call("read"), call("delete", path="b"), call("old"), call("delete", path="c")]
    answers = toolbox.call_all(calls)
    assert [(answer.error, answer.text) for answer in answers] == [
        ("tool-refused", "the user did not allow this call"),
        (None, "done"),
        (None, "done"),
        (None, "done"),
        ("tool-refused", "the user did not allow this call: that is my thesis"),
    ]
    assert sorted(done, key=str) == [("delete", {"path": "b"}), ("old", {}), ("read", {})]
    assert asked == [("delete", f'{{"path": "{name}"}}', ("may destroy",)) for name in "abc"]


def test_always_holds_for_that_tool():
    toolbox, done, asked = make_box(Permission(ask=("all",)), ["always", "no"])
    toolbox.call_all([call("delete"), call("delete"), call("read"), call("delete")])
    assert [name for name, _ in done] == ["delete"] * 3
    assert [name for name, _, _ in asked] == ["delete", "read"]


def test_without_a_person_nothing_is_run():
    toolbox, done, _ = make_box(Permission(ask=("all",)), nobody=True)
    answer = toolbox.call(call("read"))
    assert answer.error == "tool-refused"
    assert "nobody can be asked" in answer.text
    assert done == []


def test_the_person_sees_the_arguments_that_would_be_used():
    toolbox, _, asked = make_box(Permission(ask=("all",)), ["no"])
    toolbox.call(ToolCall(name="delete", arguments='{path: "/etc"'))
    assert asked[0][1] == '{"path": "/etc"}'
    toolbox.call(call("delete", path=5))  # what is refused anyway is not asked
    assert len(asked) == 1


def test_a_pattern_that_names_nothing_is_an_error(tmp_path: Path):
    file = tmp_path / "tools.py"
    file.write_text('def delete() -> str:\n    """Delete."""\n    return "gone"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--deny delet: there is no such tool\n  fix: there are: delete"):
        load_toolbox([str(file)], permission=Permission(deny=("delet",)))
    toolbox = load_toolbox([str(file)], permission=Permission(deny=("delet",), strict=False))
    assert toolbox.call(call("delete")).text == "gone"
    toolbox = load_toolbox([str(file), "manual"], ask=lambda _: "typed", permission=Permission(deny=("else",)))
    assert toolbox.call(call("delete")).text == "typed"


# --- the terminal -----------------------------------------------------------------------------------------------------


def ask(call: ToolCall, tool: Tool, *lines: str) -> tuple[str, str]:
    left, out = list(lines), io.StringIO()

    def read(_prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return ask_approval(call, tool, read, Console(file=out, width=200)), out.getvalue()


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["y"], "yes"),
        (["YES "], "yes"),
        (["是"], "yes"),
        (["", "  ", "always"], "always"),
        (["n"], "no"),
        (["否"], "no"),
        (["not today"], "not today"),
        (["ok"], "ok"),  # no yes: the call is not made
        ([], "no"),
    ],
)
def test_answers(lines, answer):
    tool = Tool(spec=ToolSpec(name="t", parameters={}), call=str)
    assert ask(ToolCall(name="t", arguments="{}"), tool, *lines)[0] == answer


def test_what_is_shown_is_what_is_run():
    tool = Tool(spec=ToolSpec(name="t", parameters={}), call=str, hints=("it says \x1b[31mred",))
    arguments = '{"a": "\x1b[2Jclear \u202egnp.exe \u200bzero"}'
    shown = ask(ToolCall(name="t\x07", arguments=arguments), tool, "n")[1]
    assert "may t\\x07 be called? (it says \\x1b[31mred)" in shown
    assert '{"a": "\\x1b[2Jclear \\u202egnp.exe \\u200bzero"}' in shown


def test_without_a_terminal_there_is_no_person(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert make_approver(input, Console()) is None

"""Templates for Ollama: equal to the prompts of training where Go can say them, and open about where it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from actune.core.errors import ConfigError
from actune.core.types import Message, ToolCall
from actune.exporting.ollama.modelfile import build_template, write_modelfile
from actune.exporting.ollama.nodes import (
    Call,
    If,
    Put,
    PutNext,
    Range,
    Set,
    Text,
    evaluate,
    go_json,
    go_quote,
    write_template,
)
from actune.exporting.ollama.nodes import Path as Name
from actune.exporting.ollama.probes import as_ollama, list_cases
from actune.exporting.ollama.tool_parser import find_call
from actune.exporting.ollama.values import to_values
from actune.render.chat import load_renderer

# What no template of Ollama can write as JSON of Python: it is handed sorted maps, and schemas without other keywords.
INHERENT = {
    "properties that are not in the order of the alphabet",
    "arguments that are not in that order",
    "lists in arguments",
    "nested schemas and keywords",
}


@pytest.mark.parametrize("dialect", ["chat", "react", "react_zh"])
def test_prompts_are_those_of_training_but_for_what_go_cannot_say(tools_folder: Path, dialect: str):
    template = build_template(load_renderer(tools_folder), dialect)
    assert {one.case.name for one in template.differing} == INHERENT
    assert len(template.outcomes) > 12
    assert template.marker == ("<tool_call>" if dialect == "chat" else "Action:")
    assert template.call


def test_a_template_without_tools_says_so(tokenizer_folder: Path):
    template = build_template(load_renderer(tokenizer_folder), "chat")
    assert template.reasons == ("tools: the chat template shows none",)
    assert ".Tools" not in write_template(template.nodes)
    assert not template.call
    plain = [one for one in template.outcomes if not one.case.tools]
    assert plain
    assert all(one.same for one in plain)


def test_what_stands_between_text_and_call_is_kept(tools_folder: Path, tmp_path: Path):
    shutil.copytree(tools_folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    begin = "{{- '<tool_call>' + ("
    assert begin in config["chat_template"]
    gap = "{%- if message.content and loop.first %}{{- '\\n--\\n' }}{%- endif %}"
    path.write_text(json.dumps(config | {"chat_template": config["chat_template"].replace(begin, gap + begin)}))
    template = build_template(load_renderer(tmp_path), "chat")
    assert {one.case.name for one in template.differing} == INHERENT
    assert "--" in write_template(template.nodes)
    assert (template.marker, template.call) == ("<tool_call>", True)


def test_ollama_finds_tools_in_the_template(tools_folder: Path):
    """It says "does not support tools" of a model whose template does not name `.Tools`."""
    for dialect in ("chat", "react"):
        text = write_template(build_template(load_renderer(tools_folder), dialect).nodes)
        assert "{{ if .Tools }}" in text
        assert "{{ if .ToolCalls }}" in text


def test_a_template_that_is_no_row_of_blocks_is_refused(tools_folder: Path, tmp_path: Path):
    shutil.copytree(tools_folder, tmp_path, dirs_exist_ok=True)
    odd = "{% for m in messages %}<{{ loop.index }}>{{ m.content }}</{{ loop.revindex }}>{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(odd)
    with pytest.raises(ConfigError, match="cannot be written in Ollama's template language") as caught:
        build_template(load_renderer(tmp_path), "react")
    assert "llama-server --jinja" in str(caught.value.fix)


def test_the_modelfile_holds_template_stops_and_what_differs(tools_folder: Path):
    renderer = load_renderer(tools_folder)
    template = build_template(renderer, "react")
    text = write_modelfile(
        template, weights="./m.gguf", stops=renderer.profile.stops, dialect="react", context=2048, license_name="mit"
    )
    assert "\nFROM ./m.gguf\n" in text
    assert 'PARAMETER stop "<|im_end|>"\nPARAMETER stop "Observation:"\n' in text
    assert "PARAMETER num_ctx 2048" in text
    assert 'LICENSE """mit"""' in text
    assert "#   - lists in arguments" in text
    assert text.count('"""') == 4
    assert write_template(template.nodes) in text


def test_texts_from_outside_stay_inside_their_line(tools_folder: Path):
    from dataclasses import replace

    renderer = load_renderer(tools_folder)
    template = replace(build_template(renderer, "chat"), nodes=(Text('"quoted"'),), reasons=("a\nFROM evil",))
    evil = 'mit"""\nADAPTER ./x'
    text = write_modelfile(
        template, weights="./m.gguf", stops=['a"b', '"""'], dialect="chat", context=None, license_name=evil
    )
    assert 'TEMPLATE """{{ "" }}"quoted"{{ "" }}"""' in text
    assert "\n# Not written: a FROM evil\n" in text
    assert "ADAPTER" not in text
    assert [line.split(" ")[0] for line in text.splitlines() if line and line[0] != "#"] == [
        "FROM", "TEMPLATE", "PARAMETER", "PARAMETER", "PARAMETER", "PARAMETER",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ('Thought: a\nAction: f\nAction Input: {"x": {"y": 1}}\n', ("f", {"x": {"y": 1}})),
        ("Action: f\nAction Input: {}", ("f", {})),
        ("Thought: f {}", None),
        ("Action: other\nAction Input: {}", None),
    ],
)
def test_calls_are_read_as_ollama_reads_them(output: str, found: tuple | None):
    assert find_call(output, "Action:", ["f", "g"]) == found


def test_messages_of_one_role_are_joined_as_ollama_does():
    values = to_values([Message(role="user", content="a"), Message(role="user", content="b")])
    assert [one["Content"] for one in values["Messages"]] == ["a\n\nb"]


def test_json_is_written_as_go_does():
    assert go_json({"b": 1.0, "a": "<é>", "c": [True, None]}) == '{"a":"\\u003cé\\u003e","b":1,"c":[true,null]}'
    assert go_quote('a"b\\\n\u3000é') == '"a\\"b\\\\\\n\\u3000é"'


LANGUAGE = (
    Text('{"a{{b"""{'),
    Set("$role", "", new=True),
    Range(
        Name(".Messages"),
        (
            If(
                Call("and", (Call("eq", (Name(".Role"), "user")), Call("not", (Name("$role"),)))),
                (Text("first"),),
                (Text("else"),),
            ),
            PutNext(Name("$n")),
            Put(Name(".Content"), "quoted"),
            Set("$role", Name(".Role")),
            Range(
                Name(".ToolCalls"),
                (Put(Name(".Function.Arguments"), "json"), If(Call("gt", (Name("$i"), 0)), (Text("}"),))),
                key="$i",
                value="$c",
            ),
        ),
        key="$n",
        value="$m",
    ),
    If(Call("or", (Name(".System"), Call("ne", (Name("$role"), "tool")))), (Put(Name("$role")),)),
    If(Call("gt", (Call("len", (Name(".Messages"),)), 1)), (Text("many"),)),
)


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_go_comes_to_the_same(tools_folder: Path, thinking_folder: Path, tmp_path: Path):
    calls = (
        ToolCall(name="f", arguments='{"b": "<", "a": 1.5}'),
        ToolCall(name="f", arguments='{"c": [1, {"z": 1, "y": 2}]}'),
    )
    odd = [Message(role="user", content='"\\\t\u00a0é😀'), Message(role="assistant", content="", tool_calls=calls)]
    expected, asked = [], []

    def ask(nodes, values) -> None:
        asked.append({"Template": write_template(nodes), "Values": values})
        expected.append(evaluate(nodes, values))

    ask(LANGUAGE, to_values(odd))
    for folder in (tools_folder, thinking_folder):
        for dialect in ("chat", "react"):
            try:
                template = build_template(load_renderer(folder), dialect)
            except ConfigError:
                continue
            for case in list_cases(dialect):
                ask(template.nodes, to_values(as_ollama(case, dialect), case.tools))
    assert len(asked) > 30
    program = Path(__file__).with_name("ollama_template.go")
    done = subprocess.run(
        ["go", "run", str(program)], input=json.dumps(asked).encode(), capture_output=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == expected


@pytest.mark.shared
@pytest.mark.parametrize("name", ["qwen2.5", "qwen3"])
def test_real_templates_differ_only_in_what_go_cannot_say(shared: Path, name: str):
    template = build_template(load_renderer(shared / "assets" / "tokenizers" / name), "chat")
    assert {one.case.name for one in template.differing} <= INHERENT
    assert (template.marker, template.call) == ("<tool_call>", True)

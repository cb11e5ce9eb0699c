"""One tool call through an exported folder: from the prompt ids of training, read by two parsers alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from actune.core.errors import ModelError
from actune.exporting import tool_call
from actune.exporting.react_template import FILE, build_react_template
from actune.exporting.tool_call import make_call
from actune.modeling.response_template import find_response_template, store_response_template
from actune.render.chat import ChatRenderer, load_renderer

CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call><|im_end|>'
STEP = 'Thought: I ask.\nAction: get_weather\nAction Input: {"city": "Paris"}\nObservation:'


def export(source: Path, folder: Path, style: str) -> ChatRenderer:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    renderer = load_renderer(folder)
    store_response_template(folder, find_response_template(renderer, style), keep=False)
    if style != "chat":
        text, _ = build_react_template(renderer, style)
        (folder / FILE).write_text(text, encoding="utf-8")
    return renderer


@pytest.mark.parametrize(("style", "output"), [("chat", CALL), ("react", STEP), ("react_zh", STEP)])
def test_a_call_of_the_model_is_read_by_both_parsers(tools_folder: Path, tmp_path: Path, style: str, output: str):
    renderer = export(tools_folder, tmp_path, style)
    exchange = make_call(tmp_path, renderer, style, lambda ids, stops: output)
    assert (exchange.generated, exchange.parsed) == (True, True)
    assert (exchange.call.name, json.loads(exchange.call.arguments)) == ("get_weather", {"city": "Paris"})
    assert exchange.prompt == ("the chat template" if style == "chat" else FILE)


@pytest.mark.parametrize(
    "output", ["", "Sunny.<|im_end|>", "<tool_call>{broken", '<tool_call>{"name": "x", "arguments": {}}</tool_call>']
)
def test_a_weak_model_is_shown_a_written_call(tools_folder: Path, tmp_path: Path, output: str):
    renderer = export(tools_folder, tmp_path, "chat")
    exchange = make_call(tmp_path, renderer, "chat", lambda ids, stops: output)
    assert (exchange.generated, exchange.call.name, exchange.parsed) == (False, "get_weather", True)


def test_another_template_in_the_folder_is_found(tools_folder: Path, tmp_path: Path):
    renderer = export(tools_folder, tmp_path, "chat")
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["chat_template"] = config["chat_template"].replace("Tools:", "Functions:")
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="is not that of training: from token"):
        make_call(tmp_path, renderer, "chat", lambda ids, stops: CALL)


def test_a_parser_that_reads_otherwise_is_found(tools_folder: Path, tmp_path: Path):
    renderer = export(tools_folder, tmp_path, "chat")
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["response_template"] = {"defaults": {"role": "assistant"}, "fields": {"content": {"content": "text"}}}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="transformers' parser"):
        make_call(tmp_path, renderer, "chat", lambda ids, stops: CALL)


def test_arguments_that_the_parsers_read_differently_are_found(
    tools_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    renderer = export(tools_folder, tmp_path, "chat")
    read = {"tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]}
    monkeypatch.setattr(tool_call, "parse_response", lambda *given, **named: read)
    with pytest.raises(ModelError, match=r"reads the call .* otherwise"):
        make_call(tmp_path, renderer, "chat", lambda ids, stops: CALL)


def test_the_react_template_is_only_written_where_it_is_exact(tools_folder: Path, tmp_path: Path):
    shutil.copytree(tools_folder, tmp_path, dirs_exist_ok=True)
    assert build_react_template(load_renderer(tmp_path), "react")[1] == ""
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role ~ m.content ~ loop.last }}{% endfor %}"
    )
    text, why = build_react_template(load_renderer(tmp_path), "react")
    assert text is None
    assert why

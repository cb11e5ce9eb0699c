"""Specs with transformers' own parser: what is stored reads messages back, from ids, in a saved folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_parsing import content_parsers

from actune.core.types import Conversation, Message, Source, ToolCall
from actune.modeling.response_template import KEY, Found, find_response_template, store_response_template, try_spec
from actune.modeling.tokenizer_files import TokenizerSaver
from actune.render.chat import ChatRenderer, load_renderer
from actune.render.dialects import ChatDialect, ReactDialect
from actune.render.response_trials import chat_trials

FORMS = [
    "json in tags", "json list with ids", "name then json", "name as key", "bare json", "tag per parameter",
    "python call", "python list", "channels",
]  # fmt: skip
USER = Message(role="user", content="?")

newer_parser = pytest.mark.skipif(
    "python-call-list" not in Path(content_parsers.__file__).read_text(encoding="utf-8"),
    reason="the parser of this version of transformers knows less: no spec is stored",
)


@pytest.fixture(scope="module")
def renderers(tokenizer_folder: Path, native_kit: ModuleType) -> dict[str, ChatRenderer]:
    templates = {name: native_kit.make_template(answer) for name, answer in native_kit.ANSWERS.items()}
    templates["opened"] = native_kit.make_template(native_kit.OPENED, opened="<think>\\n")
    return {name: native_kit.make_renderer(tokenizer_folder, text) for name, text in templates.items()}


@newer_parser
@pytest.mark.parametrize("name", [*FORMS, "opened"])
def test_a_spec_that_holds_is_found(renderers: dict[str, ChatRenderer], name: str):
    found = find_response_template(renderers[name], "chat")
    assert found.reason is None
    assert found.spec is not None


@pytest.mark.parametrize("name", ["json then name", "name on a line", "key and value tags"])
def test_else_there_is_a_reason(renderers: dict[str, ChatRenderer], name: str):
    # The last writes lists and objects as Python does, which no parser of the spec reads.
    found = find_response_template(renderers[name], "chat")
    assert found.spec is None
    assert found.reason


def test_a_wrong_spec_is_noticed(renderers: dict[str, ChatRenderer]):
    renderer = renderers["json in tags"]
    right = find_response_template(renderer, "chat").spec
    trials = list(chat_trials(renderer))
    assert try_spec(right, trials, "<|im_end|>") is None
    for path, value in (
        (("start_anchor",), "<|im_start|>"),
        (("fields", "tool_calls", "close"), "}"),
        (("fields", "tool_calls", "repeats"), False),
        (("fields", "tool_calls", "open_pattern"), "<tool_call>"),  # blanks before it would replace the content
        (("fields", "content", "close_pattern"), r"\s*<none>"),
        (("fields", "thinking", "close"), "</thinking>"),
    ):
        wrong = json.loads(json.dumps(right))
        place = wrong
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert try_spec(wrong, trials, "<|im_end|>") is not None, path


@newer_parser
def test_a_spec_has_to_hold_in_pieces(renderers: dict[str, ChatRenderer]):
    spec = find_response_template(renderers["json in tags"], "react").spec
    answer = "Final Answer: It is sunny."
    early = json.loads(json.dumps(spec))
    early["fields"]["content"]["open_pattern"] = r"\A(?!\s*(?:Thought|Action|Final Answer):)|(?m:^)Final Answer:\s*"
    from actune.render.response_trials import Trial

    trial = Trial(prompt="", text=answer, message=Message(role="assistant", content="It is sunny."), tools=())
    assert try_spec(spec, [trial], "<|im_end|>") is None
    assert "in pieces" in str(try_spec(early, [trial], "<|im_end|>"))


def read_back(
    saver: TokenizerSaver, folder: Path, renderer: ChatRenderer, message: Message, tools: tuple, *, react: bool
):
    saver(folder)
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    dialect = ReactDialect(renderer, "en") if react else ChatDialect(renderer)
    row = Conversation(messages=(USER, message), tools=tools, source=Source(file="x", line=1))
    prompt = dialect.prompt(row, 1)
    ids = [renderer.tokenizer.encode(text) for text in (prompt, dialect.completion(row, 1, prompt))]
    return loaded.parse_response(ids[1], prefix=ids[0], tools=[tool.describe() for tool in tools])


@pytest.mark.parametrize("form", ["json in tags", "tag per parameter"])
def test_a_saved_folder_reads_ids_back(
    renderers: dict[str, ChatRenderer], native_kit: ModuleType, tmp_path: Path, form: str
):
    arguments = {"city": '杭州 "x"\n', "days": 3, "sure": False, "more": {"a": [1, "b"]}}
    calls = tuple(
        ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))
        for name in ("get_weather", "look-up.v2")
    )
    message = Message(role="assistant", reasoning="I think.", content="I look.", tool_calls=calls)
    said: list[str] = []
    saver = TokenizerSaver(renderers[form], "chat", say=said.append)
    read = read_back(saver, tmp_path, renderers[form], message, native_kit.TOOLS, react=False)
    assert said == []
    assert (read["thinking"], read["content"]) == ("I think.", "I look.")
    assert [call["function"] for call in read["tool_calls"]] == [
        {"name": call.name, "arguments": arguments} for call in calls
    ]


@newer_parser
def test_react_is_read_where_it_was_trained(tokenizer_folder: Path, native_kit: ModuleType, tmp_path: Path):
    renderer = load_renderer(tokenizer_folder)  # a template that shows no calls
    said: list[str] = []
    saver = TokenizerSaver(renderer, "react_zh", say=said.append)
    call = ToolCall(name="get_weather", arguments='{"city": "杭州", "days": 2}')
    message = Message(role="assistant", reasoning="I look.", tool_calls=(call,))
    read = read_back(saver, tmp_path, renderer, message, native_kit.TOOLS, react=True)
    assert said == []
    assert read["thinking"] == "I look."
    assert read["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": {"city": "杭州", "days": 2}}
    answer = Message(role="assistant", reasoning="Done.", content="It is 7.\nAction: none")
    read = read_back(saver, tmp_path, renderer, answer, native_kit.TOOLS, react=True)
    assert read == {"role": "assistant", "thinking": "Done.", "content": "It is 7.\nAction: none"}


@newer_parser
def test_python_literals_stay_text_for_the_client(renderers: dict[str, ChatRenderer]):
    from transformers.utils.chat_parsing import parse_response

    spec = find_response_template(renderers["json in tags"], "react").spec
    text = "Action: f\nAction Input: {'city': '杭州'}\nObservation:"
    read = parse_response(text, spec, prefix="")
    assert read["tool_calls"][0]["function"] == {"name": "f", "arguments": "{'city': '杭州'}"}


def test_no_spec_is_said_with_its_reason(tokenizer_folder: Path, tmp_path: Path):
    said: list[str] = []
    TokenizerSaver(load_renderer(tokenizer_folder), "chat", say=said.append)(tmp_path)
    assert len(said) == 1
    assert "no response_template is stored" in said[0]
    assert "the call is not in the text" in said[0]
    assert KEY not in json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))


def test_a_spec_of_the_base_model_stays_only_where_calls_are_still_written_so(tmp_path: Path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({KEY: {"old": 1}, "eos_token": "x"}), encoding="utf-8")

    def stored() -> dict:
        return json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))

    store_response_template(tmp_path, Found(reason="none"), keep=True)
    assert stored() == {KEY: {"old": 1}, "eos_token": "x"}
    store_response_template(tmp_path, Found(spec={"new": 1}), keep=True)
    assert stored() == {KEY: {"new": 1}, "eos_token": "x"}
    store_response_template(tmp_path, Found(reason="none"), keep=False)
    assert stored() == {"eos_token": "x"}


@newer_parser
def test_what_stands_between_an_answer_and_its_stop_is_not_content(tokenizer_folder: Path, native_kit: ModuleType):
    from transformers.utils.chat_parsing import parse_response

    renderer = native_kit.make_renderer(tokenizer_folder, native_kit.make_template("{{- m.content + '<done>\\n' }}"))
    spec = find_response_template(renderer, "react").spec
    assert spec is not None
    read = parse_response("Thought: x\nFinal Answer: y<done>\n<|im_end|>", spec, prefix="")
    assert read == {"role": "assistant", "thinking": "x", "content": "y"}

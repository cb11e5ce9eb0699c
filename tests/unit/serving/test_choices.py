"""Required calls under templates that reason, write ids, or put the name last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "map")
]
NAMED = {"type": "function", "function": {"name": "map"}}
HEADER = "<|im_start|>assistant\n"


@pytest.fixture
def ask(serving_kit: ModuleType, native_kit: ModuleType, tokenizer_folder: Path, tmp_path: Path):
    """Return what asks a model of a template, whose output is given as a whole, for a call; and the bench."""
    benches = []

    def run(template: str, output: str, arguments: str, choice=NAMED):
        folder = tmp_path / "model"
        shutil.copytree(tokenizer_folder, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config | {"chat_template": template}), encoding="utf-8"
        )

        def write(request, base) -> str:
            done = bench.engine.tokenizer.decode(list(request.prompt)).rpartition(HEADER)[2]
            return output[len(done) :] if output.startswith(done) else arguments

        bench = serving_kit.Bench(folder, write)
        benches.append(bench)
        body = {
            "model": "tuned",
            "messages": [{"role": "user", "content": "hi"}],
            "tools": TOOLS,
            "tool_choice": choice,
        }
        return bench, TestClient(bench.app).post("/v1/chat/completions", json=body)

    yield run
    for bench in benches:
        bench.close()


def test_a_model_reasons_before_its_call(ask, native_kit: ModuleType):
    template = native_kit.make_template(native_kit.ANSWERS["json in tags"])
    output = "<think>\nI need the map for this one, and nothing else\n</think>\n\nNo call."
    bench, response = ask(template, output, '{"city": "a"}}\n</tool_call>')
    choice = response.json()["choices"][0]
    assert choice["message"]["reasoning_content"] == "I need the map for this one, and nothing else"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "map", "arguments": '{"city": "a"}'}
    assert bench.engine.prompts()[-1].endswith('</think>\n\n\n<tool_call>\n{"name": "map", "arguments": ')
    assert bench.engine.requests[0].max_tokens == 8


def test_a_model_that_does_not_reason_is_not_made_to(ask, native_kit: ModuleType):
    template = native_kit.make_template(native_kit.ANSWERS["json in tags"])
    bench, response = ask(
        template, "Just an answer of some length, and then more of it.", '{"city": "a"}}\n</tool_call>'
    )
    message = response.json()["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert message["tool_calls"][0]["function"]["name"] == "map"
    assert len(bench.engine.requests) == 2


def test_reasoning_that_the_prompt_opens(ask, native_kit: ModuleType):
    template = native_kit.make_template(native_kit.OPENED, opened="<think>\\n")
    _, response = ask(template, "<think>\nthe map\n</think>\n\nNo call.", '{"city": "a"}}\n</tool_call>')
    message = response.json()["choices"][0]["message"]
    assert message["reasoning_content"] == "the map"
    assert message["tool_calls"][0]["function"]["name"] == "map"


@pytest.mark.parametrize(
    "form", ["json list with ids", "name then json", "python list", "tag per parameter", "bare json"]
)
def test_the_opening_is_the_templates_own(ask, native_kit: ModuleType, form: str):
    tails = {
        "json list with ids": '{"city": "a"}, "id": "call00001"}]',
        "name then json": '{"city": "a"}',
        "python list": 'city="a")]',
        "tag per parameter": "city>\na\n</parameter>\n</function>\n</tool_call>",
        "bare json": '{"city": "a"}}',
    }
    choice = "required" if form == "bare json" else NAMED
    _, response = ask(native_kit.make_template(native_kit.ANSWERS[form]), "?", tails[form], choice)
    assert response.status_code == 200, response.text
    call = response.json()["choices"][0]["message"]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"city": "a"}
    assert call["function"]["name"] in ("weather", "map")
    assert call["id"]


@pytest.mark.parametrize("form", ["json then name", None])
def test_a_template_whose_calls_cannot_be_opened(ask, native_kit: ModuleType, form: str | None):
    answer = native_kit.APART if form is None else native_kit.ANSWERS[form]
    bench, response = ask(native_kit.make_template(answer), "?", "?")
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "tool_choice", "unsupported_parameter")
    assert bench.engine.requests == []

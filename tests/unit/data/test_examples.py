"""The shipped examples: what the README's first run reads."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from actune.core.api_list import read_system, write_system
from actune.core.react import read_turn, write_turn

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "make_example_tokenizer.py"


def read_rows(name):
    lines = (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def run_script(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("tokenizer") / "out"
    done = run_script("--out", target)
    assert done.returncode == 0, done.stderr
    return target


def test_agent_rows_are_in_the_normal_layout_of_the_reference():
    rows = read_rows("agent.jsonl")
    assert len(rows) == 24
    steps = []
    for row in rows:
        system, *turns = row["conversations"]
        block = read_system(system["value"])
        assert block is not None
        assert write_system(block.system, block.tools) == system["value"]
        assert block.repaired == ()
        assert [turn["from"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        tools = {tool.name: tool.parameters for tool in block.tools}
        for turn in turns[1::2]:
            messages = read_turn(turn["value"])
            assert write_turn(messages) == turn["value"]
            calls = [call for message in messages for call in message.tool_calls]
            for call in calls:
                given = set(call.parse_arguments())
                assert given <= set(tools[call.name]["properties"]), row["id"]
                assert given >= set(tools[call.name].get("required", ())), row["id"]
            steps.append(len(calls))
    assert {0, 1, 2, 3} <= set(steps)
    assert sum(len(row["conversations"]) > 3 for row in rows) >= 6


def test_calculator_observations_are_right():
    checked = 0
    for row in read_rows("agent.jsonl"):
        for turn in row["conversations"][2::2]:
            messages = read_turn(turn["value"])
            for message, answer in itertools.pairwise(messages):
                if message.tool_calls and message.tool_calls[0].name == "calculator":
                    expression = message.tool_calls[0].parse_arguments()["expression"]
                    assert json.loads(answer.content)["result"] == pytest.approx(CALCULATED[expression])
                    checked += 1
    assert checked == len(CALCULATED)


CALCULATED = {
    "24*3.5*5": 24 * 3.5 * 5,
    "18*7.5": 18 * 7.5,
    "2*(18+7.5)": 2 * (18 + 7.5),
    "186*1.1/4": 186 * 1.1 / 4,
    "12*9/2": 12 * 9 / 2,
}


def test_general_rows_are_query_and_response_in_both_languages():
    rows = read_rows("general.jsonl")
    assert len(rows) == 48
    assert {frozenset(row) for row in rows} == {frozenset({"query", "response"})}
    assert len({row["query"] for row in rows}) == 48
    chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in row["query"]) for row in rows)
    assert chinese == 24


@pytest.mark.parametrize(
    "text",
    [
        "把客厅的空调调到26度。",
        "Thought: I now know the final answer\nFinal Answer: 51.15 euros",
        "  spaces,\ttabs\r\nand line breaks  \n\n",
        "not in the examples: Ångström, ﬁ, 😀, 한국어, \x00",
    ],
)
def test_any_text_comes_back_as_it_was(folder, text):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_control_tokens_are_single_and_transformers_loads_it(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert tokenizer.encode(token, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(token)]
    assert 1500 <= len(tokenizer) <= 2000
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "你好"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_same_texts_give_the_same_files(folder, tmp_path):
    assert run_script("--out", tmp_path / "again").returncode == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        digests = {hashlib.sha256((place / name).read_bytes()).digest() for place in (folder, tmp_path / "again")}
        assert len(digests) == 1, name


def test_a_folder_that_is_not_empty_is_left_alone(folder):
    before = sorted(path.name for path in folder.iterdir())
    done = run_script("--out", folder)
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_folder_without_texts_is_named(tmp_path):
    done = run_script("--out", tmp_path / "out", "--data", tmp_path)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert not (tmp_path / "out").exists()

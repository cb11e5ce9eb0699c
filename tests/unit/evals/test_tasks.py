"""Items from rows: splits, gold, names; and tasks from files, with every problem said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actune.core.errors import ConfigError, DataError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.data.identity import heldout_rows
from actune.evals.task_files import load_tasks, read_questions, read_task_file
from actune.evals.tasks import (
    agent_items,
    find_gold_fault,
    identity_items,
    nll_items,
    over_trigger_items,
    seen_tools,
)

NAMES, AUTHORS = ["小助", "Helper"], ["魔法公司", "Magic Inc."]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (ToolSpec(name="weather", parameters=CITY), ToolSpec(name="search", parameters={"type": "object"}))


def make_row(
    *calls: tuple[str, str], line: int = 1, file: str = "data/rows.jsonl", tools=TOOLS, **more
) -> Conversation:
    """A question, a step a call, an answer."""
    messages = [Message(role="user", content="问题")]
    for name, arguments in calls:
        messages.append(Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=arguments),)))
        messages.append(Message(role="tool", content="结果"))
    messages.append(Message(role="assistant", content="回答"))
    return Conversation(messages=tuple(messages), tools=tools, source=Source(file=file, line=line), **more)


def plain(question: str, answer: str, line: int = 1) -> Conversation:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Conversation(messages=messages, source=Source(file="plain.jsonl", line=line))


GOOD = ("weather", '{"city": "a"}')


def test_splits_are_by_gold_tool():
    rows = [make_row(GOOD), make_row(("search", "{}"), line=2), make_row(line=3)]
    items = agent_items(rows, task="t", seen_tools=["weather"])
    assert [(item.id, item.split, item.index) for item in items] == [
        ("rows.jsonl:1#1", "held-in", 1),
        ("rows.jsonl:2#1", "held-out", 1),
        ("rows.jsonl:3#1", "no-tool", 1),
    ]
    both = (ToolCall(name="weather", arguments="{}"), ToolCall(name="search", arguments="{}"))
    messages = (Message(role="user", content="q"), Message(role="assistant", tool_calls=both))
    row = Conversation(messages=messages, tools=TOOLS, source=Source(file="x", line=1))
    assert agent_items([row], task="t", seen_tools=["weather"])[0].split == "held-out"
    assert agent_items([row], task="t", seen_tools=["weather", "search"])[0].split == "held-in"


def test_all_steps_share_a_cluster():
    items = agent_items(
        [make_row(GOOD, GOOD), make_row(GOOD, line=2, id="dialogue")], task="t", seen_tools=[], steps="all"
    )
    assert [item.id for item in items] == [f"rows.jsonl:{n}" for n in ("1#1", "1#3", "1#5", "2#1", "2#3")]
    assert [item.cluster for item in items] == ["rows.jsonl:1"] * 3 + ["dialogue"] * 2


def test_steps_that_are_not_trained_are_not_asked():
    messages = list(make_row(GOOD).messages)
    messages[1] = Message(role="assistant", tool_calls=messages[1].tool_calls, train=False)
    row = Conversation(messages=tuple(messages), tools=TOOLS, source=Source(file="x", line=1))
    assert [item.index for item in agent_items([row], task="t", seen_tools=[], steps="all")] == [3]


def test_each_metric_has_the_gold_it_needs():
    call, answer = agent_items([make_row(GOOD)], task="t", seen_tools=[], steps="all")
    golds = {measure.metric: measure.gold for measure in call.measures}
    calls = [{"name": "weather", "arguments": {"city": "a"}}]
    assert golds["strict_call"] == golds["key_f1"] == {"calls": calls}
    assert golds["no_hallucinated_tool"] == {"calls": calls, "tools": ["weather", "search"]}
    assert golds["schema_valid"] == {"calls": calls, "tools": {"weather": CITY, "search": {"type": "object"}}}
    assert "answer_rouge_l" not in golds
    assert "no_false_call" not in golds
    assert {measure.metric for measure in answer.measures} == {
        "strict_call", "decision", "format_valid", "no_invented_observation", "no_false_call", "answer_rouge_l",
    }  # fmt: skip
    json.dumps([dict(gold) for gold in golds.values()], allow_nan=False)


def test_a_gold_that_breaks_its_own_schema_judges_nobody():
    (item,) = agent_items([make_row(("weather", '{"town": "a"}'))], task="t", seen_tools=[])
    metrics = {measure.metric for measure in item.measures}
    assert "schema_valid" not in metrics
    assert {"strict_call", "no_hallucinated_tool"} <= metrics
    (item,) = agent_items([make_row(("fly", "{}"))], task="t", seen_tools=[])
    assert not {"schema_valid", "no_hallucinated_tool"} & {measure.metric for measure in item.measures}


def test_flat_lists_are_held_to_what_they_can_say():
    listed = ({"name": "city", "description": "a city", "required": "True", "type": "text, see docs"},)
    schema = {"type": "object", "properties": {"city": {"type": "text, see docs"}}, "required": ["city"]}
    tool = ToolSpec(name="weather", parameters=schema, parameter_list=listed)
    (item,) = agent_items([make_row(GOOD, tools=(tool,))], task="t", seen_tools=[])
    gold = next(measure.gold for measure in item.measures if measure.metric == "schema_valid")
    assert gold["tools"] == {"weather": {"type": "object", "properties": {"city": {}}, "required": ["city"]}}


@pytest.mark.parametrize("arguments", ["", "杭州", "[1]", '{"city": }', '{"n": NaN}', '{"n": 1e999}'])
def test_unreadable_gold_raises_and_names_the_row(arguments):
    rows = [make_row(GOOD), make_row(("weather", arguments), line=9)]
    with pytest.raises(DataError, match=r"data/rows\.jsonl:9: .*'weather'") as caught:
        agent_items(rows, task="t", seen_tools=[])
    assert (caught.value.code, caught.value.field) == ("gold-unreadable", "messages[1].tool_calls[0].arguments")
    assert find_gold_fault(rows[0]) is None
    assert find_gold_fault(rows[1]).message == caught.value.message


def test_a_row_without_an_answer_raises():
    row = Conversation(messages=(Message(role="user", content="q"),), source=Source(file="x", line=4))
    with pytest.raises(DataError, match="x:4"):
        agent_items([row], task="t", seen_tools=[])


def test_ids_are_unique_and_do_not_name_folders():
    rows = [
        make_row(GOOD, file="/a/one.jsonl"),
        make_row(GOOD, file="/a/one.jsonl"),
        make_row(GOOD, file="/a/two.jsonl"),
    ]
    assert [item.id for item in nll_items(rows, task="t")] == ["one.jsonl:1", "one.jsonl:1~2", "two.jsonl:1"]
    rows = [make_row(GOOD, file="a/x.jsonl"), make_row(GOOD, file="b/x.jsonl")]
    assert [item.id for item in nll_items(rows, task="t")] == ["a/x.jsonl:1", "b/x.jsonl:1"]


def test_identity_requires_what_the_gold_answer_says():
    rows = [
        plain("你是谁", "我是小助，由魔法公司训练。", 1),
        plain("Name?", "Helper.", 2),
        plain("Maker?", "Magic Inc. did.", 3),
    ]
    items = identity_items(rows, names=NAMES, authors=AUTHORS, task="t")
    golds = [item.measures[0].gold for item in items]
    assert [(gold.get("name"), gold.get("author")) for gold in golds] == [
        ("小助", "魔法公司"), ("Helper", None), (None, "Magic Inc."),
    ]  # fmt: skip
    assert [{m.metric for m in item.measures} - {"identity_hit", "no_old_identity"} for item in items] == [
        {"name_hit", "author_hit"}, {"name_hit"}, {"author_hit"},
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"plain\.jsonl:1"):
        identity_items([plain("你是谁", "我是小黄")], names=NAMES, authors=AUTHORS, task="t")


def test_every_built_in_question_asks_for_name_and_author():
    rows = heldout_rows(names=NAMES, authors=AUTHORS)
    items = identity_items(rows, names=NAMES, authors=AUTHORS, task="t")
    assert len(items) == len(rows) == 48
    assert all({"name", "author"} <= item.measures[0].gold.keys() for item in items)


def test_over_trigger_asks_nothing_that_holds_a_taught_name():
    rows = [plain("1+1?", "2", 1), plain("Who is HELPER?", "?", 2), plain("x", "ask 小助", 3), plain("helping", "y", 4)]
    items = over_trigger_items(rows, names=NAMES, authors=AUTHORS, task="t")
    assert [item.id for item in items] == ["plain.jsonl:1#1", "plain.jsonl:4#1"]
    assert items[0].measures[0].gold == {"answer": "2", "names": [*NAMES, *AUTHORS]}
    assert (items[0].axis, items[0].split) == ("identity", "all")


def test_seen_tools_are_offered_or_called():
    assert seen_tools([make_row(("fly", "{}"))]) == {"weather", "search", "fly"}


# --- files ----------------------------------------------------------------------------------------------------------

ROW = {
    "tools": [{"type": "function", "function": {"name": "weather", "description": "w", "parameters": CITY}}],
    "messages": [
        {"role": "user", "content": "杭州天气"},
        {
            "role": "assistant",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": '{"city": "杭州"}'}}],
        },
        {"role": "tool", "content": "晴"},
        {"role": "assistant", "content": "晴"},
    ],
}


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def task_file(folder: Path, text: str) -> str:
    path = folder / "tasks.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_of_every_kind(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "agent.jsonl", [ROW, ROW])
    write(
        tmp_path / "data" / "plain.jsonl",
        [{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}] * 3,
    )
    write(tmp_path / "data" / "who.jsonl", [{"query": "你是谁", "response": "我是阿丁，来自丁公司。"}])
    write(
        tmp_path / "data" / "quiz.jsonl",
        [{"question": "2+2?", "choices": ["3", "4"], "answer": "B", "subject": "math"}],
    )
    monkeypatch.chdir("/")
    words = [
        task_file(
            tmp_path,
            """
version: 1
tasks:
  - {name: tools, kind: agent, data: data/agent.jsonl, steps: all, seen_tools: [weather], limit: 3}
  - {name: other, kind: agent, data: [data/agent.jsonl#1], format: openai, seen_tools: data/plain.jsonl}
  - {name: drift, kind: nll, data: data/plain.jsonl}
  - {name: quiz, kind: choice, data: data/quiz.jsonl}
  - {name: who, kind: identity, data: data/who.jsonl, model_name: 阿丁, model_author: [丁公司, Ding]}
  - {name: ordinary, kind: over_trigger, data: data/plain.jsonl}
""",
        ),
        "identity",
    ]
    items = load_tasks(words, names=NAMES, authors=AUTHORS)
    assert [(task, len([i for i in items if i.task == task])) for task in dict.fromkeys(item.task for item in items)] == [
        ("tools", 3), ("other", 1), ("drift", 3), ("quiz", 1), ("who", 1), ("ordinary", 3), ("identity", 48),
    ]  # fmt: skip
    assert [item.split for item in items[:4]] == ["held-in", "no-tool", "held-in", "held-out"]
    who = next(item for item in items if item.task == "who")
    assert who.measures[0].gold["name"] == "阿丁"
    assert len(load_tasks(words, names=NAMES, authors=AUTHORS, limit=2)) == 2 + 1 + 2 + 1 + 1 + 2 + 2


def test_every_problem_of_a_file_is_said_with_its_line(tmp_path):
    path = task_file(
        tmp_path,
        """version: 2
tasks:
  - name: a
    kind: agnt
  - name: b
    kind: agent
    data: x.jsonl
    step: all
    limit: many
  - kind: choice
    data: []
    format: openai
  - just text
  - {name: c, kind: agent, steps: some, data: x, seen_tools: []}
other: 1
""",
    )
    with pytest.raises(ConfigError) as caught:
        read_task_file(Path(path))
    said = [line.removeprefix(f"  {path}:") for line in caught.value.message.splitlines()[1:]]
    assert said == [
        "1: 'version: 1' is needed",
        "4: 'kind' is one of agent, nll, choice, identity, over_trigger; did you mean agent?",
        "5: the task lacks 'seen_tools', a list of tool names, or a data file whose tools were seen",
        "8: a task of kind agent has no 'step'; did you mean steps?",
        "9: 'limit' is a whole number above 0",
        "10: the task lacks 'name', a text",
        "11: 'data' is a text or a list of texts",
        "12: a task of kind choice has no 'format'; it has name, kind, data, limit",
        "13: a task is a mapping with name, kind and data",
        "14: 'steps' is one of first, all",
        "15: the file has no 'other'; it has version, tasks",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a task file is a mapping"),
        ("- a", "a task file is a mapping"),
        ("version: 1", "'tasks' is a list"),
        ("version: 1\ntasks: []", "'tasks' is a list"),
        ("version: 1\ntasks: [{", "no valid YAML"),
        ("version: 1\ntasks: [{name: a, kind: identity, name: b}]", "'name' is given twice"),
        ("version: 1\ntasks: [{name: a, kind: identity, [1]: b}]", "has no ''"),
        ("version: 1\ntasks: [{name: a, kind: nll, data: ../absent.jsonl}]", "absent.jsonl"),
        ("version: 1\ntasks: [{name: a, kind: nll, data: !!python/name:os.system x}]", "no dataset"),
    ],
)
def test_wrong_files(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        load_tasks([task_file(tmp_path, text)])


@pytest.mark.parametrize(("tasks", "line"), [
    ("  - {name: a, kind: identity}\n  - {name: b, kind: nll, data: absent.jsonl}", 4),
    ("  - {name: a, kind: identity}\n  - {name: b, kind: identity}\n  - {name: a, kind: identity}", 5),
])  # fmt: skip
def test_what_is_found_behind_the_file_names_the_line_of_its_task(tmp_path, tasks, line):
    file = tmp_path / "tasks.yaml"
    file.write_text(f"version: 1\ntasks:\n{tasks}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_tasks([str(file)], names=["x"], authors=["y"])
    assert str(caught.value).startswith(f"{file}:{line}: ")


def test_wrong_names(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_tasks(["identiy"])
    assert caught.value.fix == "did you mean identity?"
    with pytest.raises(ConfigError, match="no task file"):
        load_tasks([str(tmp_path / "absent.yaml")])
    with pytest.raises(ConfigError, match="needs the name and the author"):
        load_tasks(["identity"])
    with pytest.raises(ConfigError, match="two tasks are named 'identity'"):
        load_tasks(["identity", "identity"], names=NAMES, authors=AUTHORS)


def test_rows_that_cannot_be_read_stop_a_task(tmp_path):
    write(tmp_path / "bad.jsonl", [ROW, {"messages": [{"role": "nobody", "content": "x"}]}])
    path = task_file(tmp_path, "version: 1\ntasks: [{name: a, kind: nll, data: bad.jsonl}]")
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        load_tasks([path])


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, 1),
        ({"question": "q", "choices": ["x", "y"], "answer": "b"}, 1),
        ({"question": "q", "choices": ["x", "y"], "answer": " y "}, 1),
        ({"question": "q", "choices": ["3", "0"], "answer": "0"}, 1),
        ({"question": "q", "choices": ["x", "y"], "answer": "0"}, 0),
        ({"Question": "q", "A": "x", "B": "y", "C": "z", "Answer": "C"}, 2),
    ],
)
def test_answers_of_questions(tmp_path, row, answer):
    (question,) = read_questions(write(tmp_path / "q.jsonl", [row]))
    assert question.answer == answer


@pytest.mark.parametrize(
    "row",
    [
        {"question": "", "choices": ["x", "y"], "answer": 1},
        {"question": "q", "choices": ["x"], "answer": 0},
        {"question": "q", "choices": ["x", "x"], "answer": 0},
        {"question": "q", "choices": ["x", 2], "answer": 0},
        {"question": "q", "choices": ["x", "y"], "answer": 2},
        {"question": "q", "choices": ["x", "y"], "answer": -1},
        {"question": "q", "choices": ["x", "y"], "answer": True},
        {"question": "q", "choices": ["x", "y"], "answer": "C"},
        {"question": "q", "choices": ["B", "A"], "answer": "A"},  # letter or text?
        {"question": "q", "choices": ["x", "y"]},
        {"question": "q", "answer": 0},
    ],
)
def test_questions_that_cannot_be_read(tmp_path, row):
    path = write(tmp_path / "q.jsonl", [{"question": "q", "choices": ["x", "y"], "answer": 1}, row])
    with pytest.raises(DataError, match=r"q\.jsonl:2: the gold of an item cannot be read") as caught:
        list(read_questions(path))
    assert caught.value.code == "gold-unreadable"

"""The example as a whole: the loop shows the reference's system text, and its tools or the record answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from actune.agents.loop import Agent, Task
from actune.agents.rendered import RenderedModel
from actune.agents.tools.loading import load_toolbox
from actune.core.api_list import write_system
from actune.core.types import Message
from actune.render.encoder import Encoder

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "fire_alarm"
OUTPUTS = [
    "Thought: I look at the image\nAction: fire_recognition\nAction Input: {'image': 'lobby_fire.jpg'}\nObservation:",
    "Action: call_police\nAction Input: {'who': 'thief', 'image': 5}\nObservation:",
    "Action: fire_alarm\nAction Input: {}\nObservation:",
    "Action: call_fireman\nAction Input: {}\nObservation:",
    "Thought: I now know the final answer\nFinal Answer: 119",
]


@pytest.mark.parametrize(
    ("style", "language", "tools", "record", "tasks"),
    [
        ("react", "en", "tools.py", "observations.jsonl", "tasks.jsonl"),
        ("react_zh", "zh", "tools_zh.py", "observations.zh.jsonl", "tasks.zh.jsonl"),
    ],
)
def test_the_loop_with_tools_and_with_their_record(
    agent_kit: ModuleType, tokenizer_folder: Path, style, language, tools, record, tasks
):
    live = load_toolbox([str(EXAMPLE / tools)])
    replayed = load_toolbox([str(EXAMPLE / tools), f"record:{EXAMPLE / record}"])
    task = json.loads((EXAMPLE / tasks).read_text(encoding="utf-8").splitlines()[0])
    encoder = Encoder.from_folder(tokenizer_folder)
    traces = []
    for toolbox in (live, replayed):
        engine = agent_kit.ScriptedEngine(list(OUTPUTS), tokenizer=encoder.renderer.tokenizer)
        agent = Agent(RenderedModel(engine, encoder, style=style), toolbox)
        messages = (Message(role="user", content=task["prompt"]),)
        traces.append(agent.run(Task(messages=messages, tools=toolbox.specs)))
        prompt = encoder.renderer.tokenizer.decode(engine.requests[0].prompt)
        assert write_system("", toolbox.specs, language) in prompt
        assert task["prompt"] in prompt
    rows = [json.loads(line) for line in (EXAMPLE / record).read_text(encoding="utf-8").splitlines()]
    texts = [step.observations for step in traces[0].steps]
    assert texts[0] == (rows[0]["observation"],)
    assert "who" in texts[1][0]
    assert "fire_recognition" in texts[2][0]
    assert texts[3] == (rows[4]["observation"],)
    assert traces[0].final_answer == traces[1].final_answer == "119"
    assert [one.observations for one in traces[1].steps if one.error is None] == [texts[0], texts[3], ()]


@pytest.mark.parametrize(
    ("tasks", "record"), [("tasks.jsonl", "observations.jsonl"), ("tasks.zh.jsonl", "observations.zh.jsonl")]
)
def test_every_picture_of_the_tasks_is_recorded(tasks, record):
    rows = [json.loads(line) for line in (EXAMPLE / tasks).read_text(encoding="utf-8").splitlines()]
    recorded = [json.loads(line) for line in (EXAMPLE / record).read_text(encoding="utf-8").splitlines()]
    pictures = [row["arguments"]["image"] for row in recorded if row["arguments"]]
    assert len({row["id"] for row in rows}) == len(rows) == 5
    for picture in pictures:
        assert any(picture in row["prompt"] for row in rows)
    assert sum(".jpg" in row["prompt"] for row in rows) == len(pictures)

"""`run` and `chat` as a user calls them, with a tiny model that has learnt one call and its answer by heart."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from actune.agents.tools.loading import load_toolbox
from actune.cli.main import main
from actune.core.types import Conversation, Message, Source, ToolCall
from actune.render.encoder import Encoder

TOOLS = '''"""Tools of the tests."""


def weather(city: str) -> str:
    """Look up the weather.

    Args:
        city: Name of the city.
    """
    print("this is no part of the result")
    return f"sunny in {city}"
'''
QUESTION, ANSWER = "Weather in Hangzhou?", "It is sunny."


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tools") / "tools.py"
    file.write_text(TOOLS, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path, tools: Path) -> Path:
    """A model folder: asked for the weather it calls the tool, told the weather it answers; else it says hello."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("agent")
    for file in tokenizer_folder.iterdir():
        shutil.copy(file, folder / file.name)
    encoder = Encoder.from_folder(folder, dialect="react")
    specs = load_toolbox([str(tools)]).specs
    call = ToolCall(name="weather", arguments='{"city": "Hangzhou"}')
    row = Conversation(
        messages=(
            Message(role="user", content=QUESTION),
            Message(role="assistant", reasoning="look", tool_calls=(call,)),
            Message(role="tool", content="sunny in Hangzhou"),
            Message(role="assistant", reasoning="done", content=ANSWER),
        ),
        tools=specs,
        style="react",
        source=Source(file="made", line=1),
    )
    hello = Conversation(
        messages=(Message(role="user", content="Hi"), Message(role="assistant", content="Hello!")),
        source=Source(file="made", line=2),
    )
    turns = [*encoder.encode_turns(row), *encoder.encode_turns(hello)]
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, tie_word_embeddings=True, max_position_embeddings=1024,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        for turn in turns:
            ids = torch.tensor([turn.ids])
            logits = model(ids).logits[0, turn.start - 1 : -1]
            torch.nn.functional.cross_entropy(logits, ids[0, turn.start :]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def command(agent: Path, tools: Path | str, *flags: object) -> list[str]:
    return [str(word) for word in ["run", "--model", agent, "--tools", tools, "--dialect", "react", *flags]]


def test_one_task_is_shown_as_it_goes(agent: Path, tools: Path, capfd: pytest.CaptureFixture[str]):
    assert main(command(agent, tools, "--prompt", QUESTION)) == 0
    shown = capfd.readouterr().out
    places = [shown.index(text) for text in ("Action: weather", "| call: weather", "| observation: sunny", ANSWER)]
    assert places == sorted(places)
    assert "no part of the result" not in shown


def test_json_is_the_trace_and_nothing_else(
    agent: Path, tools: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(command(agent, tools, "--prompt", QUESTION, "--json", "--out", tmp_path / "trace.json")) == 0
    text = capfd.readouterr().out
    trace = json.loads(text)
    assert (tmp_path / "trace.json").read_text(encoding="utf-8") == text
    assert trace["prompt"] == QUESTION
    assert trace["final_answer"] == ANSWER
    assert trace["stop_reason"] == "answer"
    assert [step["observations"] for step in trace["steps"]] == [["sunny in Hangzhou"], []]
    assert trace["steps"][0]["calls"] == [{"name": "weather", "arguments": {"city": "Hangzhou"}}]
    assert "error" not in trace["steps"][0]


def test_a_person_answers(
    agent: Path, tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.stdin", io.StringIO("sunny in Hangzhou\n"))
    assert main(command(agent, f"manual:{tools}", "--prompt", QUESTION, "--json")) == 0
    trace = json.loads(capsys.readouterr().out)
    assert trace["steps"][0]["observations"] == ["sunny in Hangzhou"]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(command(agent, f"manual:{tools}", "--prompt", QUESTION)) == 2
    assert "input has ended" in capsys.readouterr().err


def test_an_api_list_in_the_system_text_and_a_record(
    agent: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from actune.core.api_list import write_system

    system = write_system("", load_toolbox([str(tools)]).specs)
    monkeypatch.setattr("sys.stdin", io.StringIO("sunny in Hangzhou\n"))
    assert main(command(agent, "manual", "--system", system, "--prompt", QUESTION, "--json")) == 0
    by_hand = json.loads(capsys.readouterr().out)
    record = tmp_path / "record.jsonl"
    row = {"name": "weather", "arguments": {"city": "Hangzhou"}, "observation": "sunny in Hangzhou"}
    record.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert main(command(agent, tools, "--tools", f"record:{record}", "--prompt", QUESTION, "--json")) == 0
    recorded = json.loads(capsys.readouterr().out)
    assert [step["output"] for step in by_hand["steps"]] == [step["output"] for step in recorded["steps"]]
    assert recorded["final_answer"] == by_hand["final_answer"] == ANSWER


def write_tasks(path: Path, count: int) -> Path:
    rows = [{"id": f"t{number}", "prompt": QUESTION} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def strip(path: Path) -> dict[str, dict]:
    """Return the traces of a file by id, without their times."""
    traces = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for trace in traces:
        for step in trace["steps"]:
            del step["seconds"]
    return {trace["id"]: trace for trace in traces}


def test_a_file_of_tasks_in_parallel_and_resumed(
    agent: Path, tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tasks, out = write_tasks(tmp_path / "tasks.jsonl", 5), tmp_path / "traces.jsonl"
    line = command(agent, tools, "--tasks", tasks, "--out", out)
    assert main([*line, "--parallel", "3"]) == 0
    whole = strip(out)
    assert sorted(whole) == [f"t{number}" for number in range(5)]
    assert all(trace["final_answer"] == ANSWER for trace in whole.values())
    assert main(line) == 2
    assert "--resume" in capsys.readouterr().err
    lines = out.read_text(encoding="utf-8").splitlines(keepends=True)
    out.write_text("".join(lines[:2]) + lines[2][:30], encoding="utf-8")
    assert main([*line, "--resume", "--parallel", "1"]) == 0
    assert "was cut off" in capsys.readouterr().err
    assert strip(out) == whole
    write_tasks(tasks, 2)
    assert main([*line, "--resume"]) == 2
    assert "not in the task file" in capsys.readouterr().err


def test_killed_and_resumed(agent: Path, tools: Path, tmp_path: Path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time\n" + TOOLS.replace("    print(", "    time.sleep(0.3)\n    print("), encoding="utf-8")
    tasks, out = write_tasks(tmp_path / "tasks.jsonl", 6), tmp_path / "traces.jsonl"
    line = command(agent, slow, "--tasks", tasks, "--out", out, "--parallel", "1")
    process = subprocess.Popen([sys.executable, "-m", "actune", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out.is_file() and out.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert 2 <= out.read_bytes().count(b"\n") < 6
    assert main([*line, "--resume"]) == 0
    assert sorted(strip(out)) == [f"t{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--prompt and --tasks"),
        (["--prompt", "a", "--tasks", "b"], "--prompt and --tasks"),
        (["--tasks", "tasks.jsonl"], "--out"),
        (["--prompt", "a", "--max_steps", "0"], "max_steps is 0"),
        (["--prompt", "a", "--temperature", "-1"], "temperature"),
        (["--prompt", "a", "--tools", "absent.py"], "absent.py"),
        (["--prompt", "a", "--adapter", "absent"], "adapter_config.json"),
        (["--prompt", "a", "--resume"], "--resume"),
    ],
)
def test_wrong_requests(agent: Path, tools: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str):
    assert main(command(agent, tools, *flags)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}\n', "stands twice"),
        ('{"prompt": "a"}\n{"prompt": 5}\n', "tasks.jsonl:2"),
        ('{"prompt": "a"}\n{"pro\n', "tasks.jsonl:2"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', "tasks.jsonl:1"),
    ],
)
def test_wrong_tasks_are_named(
    agent: Path, tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
):
    (tmp_path / "tasks.jsonl").write_text(text, encoding="utf-8")
    line = command(agent, tools, "--tasks", tmp_path / "tasks.jsonl", "--out", tmp_path / "out.jsonl")
    assert main(line) == 2
    assert message in capsys.readouterr().err


def test_conversations_are_tasks_with_their_own_tools(
    agent: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = load_toolbox([str(tools)]).specs[0].describe()
    row = {"id": "c", "tools": [spec], "messages": [{"role": "user", "content": QUESTION}]}
    row["messages"].append({"role": "assistant", "content": "the answer of the data is not shown to the model"})
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("sunny in Hangzhou\n"))
    line = command(agent, "manual", "--tasks", tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl")
    assert main(line) == 0
    assert strip(tmp_path / "out.jsonl")["c"]["final_answer"] == ANSWER


def test_conversations_that_end_in_a_question_are_tasks(agent: Path, tools: Path, tmp_path: Path):
    asked = {"role": "user", "content": QUESTION}
    rows = [{"messages": [asked]}, {"id": "s", "messages": [{"role": "system", "content": "Be kind."}, asked]}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    human = {"conversations": [{"from": "human", "value": QUESTION}]}
    (tmp_path / "human.jsonl").write_text(json.dumps(human) + "\n", encoding="utf-8")
    for name, ids in (("rows", ["1", "s"]), ("human", ["1"])):
        out = tmp_path / f"{name}.out"
        assert main(command(agent, tools, "--tasks", tmp_path / f"{name}.jsonl", "--out", out)) == 0
        traces = strip(out)
        assert sorted(traces) == ids
        assert traces["1"]["final_answer"] == ANSWER


def test_chat(
    agent: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    saved = tmp_path / "talk.jsonl"
    typed = [f"/save {saved}", "/tools", QUESTION, f"/save {saved}", "/nonsense", "/reset", f"/save {saved}"]
    typed += ["/system You are kind.", '"""', "two", "lines", '"""', "one \\", "line", "/help", "/tools absent.py"]
    lines = iter(typed)
    monkeypatch.setattr("builtins.input", lambda _prompt: read_line(lines))
    assert main(["chat", "--model", str(agent), "--tools", str(tools), "--dialect", "react", "--max_tokens", "60"]) == 0
    shown = capsys.readouterr().out
    assert "nothing to save yet" in shown
    assert "weather: Look up the weather." in shown
    assert ANSWER in shown
    assert "| observation: sunny in Hangzhou" in shown
    assert "no command /nonsense" in shown
    assert "absent.py" in shown
    row = json.loads(saved.read_text(encoding="utf-8"))
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["tools"][0]["function"]["name"] == "weather"
    out = tmp_path / "tokens.jsonl"
    assert main(["tokens", "--model", str(agent), "--data", str(saved), "--dialect", "react", "--out", str(out)]) == 0
    assert "error" not in json.loads(out.read_text(encoding="utf-8"))


def read_line(lines) -> str:
    try:
        return next(lines)
    except StopIteration:
        raise EOFError from None


def test_interrupted_answer_is_taken_back(agent: Path, tools: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from actune.agents.engines.local import LocalEngine

    real, calls = LocalEngine.generate, []

    def generate(self, requests, *, on_text=None):
        calls.append(list(requests[0].prompt))
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(self, requests, on_text=on_text)

    monkeypatch.setattr(LocalEngine, "generate", generate)
    typed = iter([QUESTION, QUESTION])
    monkeypatch.setattr("builtins.input", lambda _prompt: read_line(typed))
    assert main(["chat", "--model", str(agent), "--tools", str(tools), "--dialect", "react"]) == 0
    shown = capsys.readouterr().out
    assert "taken back" in shown
    assert ANSWER in shown
    assert calls[0] == calls[1]


def test_run_folder_knows_how_its_rows_were_written(
    model: Path, tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    data = Path(__file__).resolve().parents[2] / "examples" / "agent.jsonl"
    words = ["sft", "--model", str(model), "--dataset", str(data), "--output_dir", str(out), "--max_length", "4096"]
    words += ["--compare", "false", "--max_steps", "1", "--validation_ratio", "0", "--now", "2024-05-06"]
    words += ["--batch_size", "1", "--gradient_accumulation_steps", "1"]
    assert main(words) == 0
    capsys.readouterr()
    flags = ["--tools", str(tools), "--prompt", "x", "--json", "--max_tokens", "3"]
    for extra in ([], ["--base"], ["--adapter", str(out / "adapter")]):
        assert main(["run", "--model", str(out), *flags, *extra]) == 0
        assert json.loads(capsys.readouterr().out)["stop_reason"] in ("tokens", "answer", "unparsable")
    from actune.agents.engines.engine import Sampling
    from actune.agents.loop import Limits
    from actune.recipes.agents import Choice, build_encoder, find_weights

    folder, adapter = find_weights(str(out), None)
    assert (folder, adapter) == (model.resolve(), out / "adapter")
    style = build_encoder(Choice(model=str(out), limits=Limits(), sampling=Sampling()), adapter)[1]
    assert style == "react"
    # a model of its own has a template that cannot show calls, so it is ReAct as well; one that can is chat
    assert build_encoder(Choice(model=str(model), limits=Limits(), sampling=Sampling()), None)[1] == "react"

"""`actune run` and `chat` against a server: what is refused, what is said, what is written, how it goes on."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import pytest

from actune.cli.main import main
from actune.recipes.agents import Choice, find_window
from actune.render.encoder import Encoder

TOOLS = '''
def weather(city: str) -> str:
    """Look up the weather.

    Args:
        city: Name of the city.
    """
    return f"sunny in {city}"
'''
CALL = 'Thought: look\nAction: weather\nAction Input: {"city": "Rome"}\nObservation:'
ANSWER = "Thought: so\nFinal Answer: It is sunny."
NATIVE = [
    {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
    "tool_calls",
]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    file = tmp_path / "tools.py"
    file.write_text(TOOLS, encoding="utf-8")
    return file


@pytest.fixture
def react(server_kit: ModuleType, tools_folder: Path):
    """Return a server that answers each question about the weather in ReAct text: a call, then the answer."""
    tokenizer = Encoder.from_folder(tools_folder).renderer.tokenizer

    def answer(body) -> str:
        asked = tokenizer.decode(body["prompt"])
        return (ANSWER + "<stop>") if "sunny in Rome" in asked.rpartition("<|im_start|>")[2] else CALL + " rain"

    with server_kit.serve(server_kit.FakeServer("vllm", tokenizer=tokenizer, outputs=answer)) as fake:
        yield fake


def command(fake, *flags: object) -> list[str]:
    return [str(word) for word in ("run", "--server", fake.url, *flags)]


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


# --- prompts from here ------------------------------------------------------------------------------------------------


def test_a_model_folder_without_weights_is_enough(react, tools_folder: Path, tools: Path, capsys):
    flags = ["--model", tools_folder, "--tools", tools, "--dialect", "react", "--prompt", "Rome?", "--json"]
    assert main(command(react, *flags)) == 0
    trace = json.loads(capsys.readouterr().out)
    assert (trace["final_answer"], trace["dialect"], trace["model"]) == ("It is sunny.", "react", "tiny")
    assert [step["output"] for step in trace["steps"]] == [CALL, ANSWER]
    assert trace["messages"][1]["reasoning_content"] == "look"


def test_many_tasks_samples_and_going_on(react, tools_folder: Path, tools: Path, tmp_path: Path, capsys):
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "traces.jsonl"
    tasks.write_text('{"prompt": "A?", "id": "a"}\n{"prompt": "B?\\u2028", "id": "b"}\n', encoding="utf-8")
    common = ["--model", tools_folder, "--tools", tools, "--dialect", "react", "--tasks", tasks, "--out", out]
    flags = [*common, "--temperature", 0.8, "--samples", 3, "--seed", 5]
    assert main(command(react, *flags)) == 0
    rows = read_lines(out)
    assert sorted((row["id"], row["sample"]) for row in rows) == [(name, n) for name in "ab" for n in range(3)]
    assert {(row["sample"], row["sampling"]["seed"]) for row in rows} == {(0, 5), (1, 6), (2, 7)}
    assert {row["stop_reason"] for row in rows} == {"answer"}
    # A killed run: two traces are whole, one is half, one was ended by the server.
    failed = rows[2] | {"stop_reason": "error"}
    half = json.dumps(rows[3])[:40]
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*rows[:2], failed)) + half, "utf-8")
    react.bodies.clear()
    capsys.readouterr()
    assert main(command(react, *flags, "--resume")) == 0
    said = capsys.readouterr().err
    assert ["cut off" in said, "ended with an error are done again: 1" in said, "done already: 2 of 6" in said] == [
        True
    ] * 3
    again = read_lines(out)
    assert again[:2] == rows[:2]
    assert sorted((row["id"], row["sample"]) for row in again) == [(name, n) for name in "ab" for n in range(3)]
    # Fewer samples than the file holds are another run.
    assert main(command(react, *common, "--temperature", 0.8, "--samples", 2, "--resume")) == 2
    assert "sample 2 of task" in capsys.readouterr().err


def test_samples_need_a_temperature(react, tools_folder: Path, capsys):
    flags = ["--model", tools_folder, "--prompt", "?", "--samples"]
    assert main(command(react, *flags, 2)) == 2
    assert "temperature" in capsys.readouterr().err
    assert main(command(react, *flags, 0)) == 2


def test_samples_of_one_prompt(react, tools_folder: Path, tools: Path, tmp_path: Path, capsys):
    flags = ["--model", tools_folder, "--tools", tools, "--dialect", "react", "--prompt", "Rome?", "--json"]
    out = tmp_path / "traces.jsonl"
    assert main(command(react, *flags, "--samples", 2, "--temperature", 1, "--out", out)) == 0
    text = capsys.readouterr().out
    assert [json.loads(line)["sample"] for line in text.splitlines()] == [0, 1]
    assert out.read_text(encoding="utf-8") == text


def test_a_server_that_fails_is_exit_1_and_says_so(react, tools_folder: Path, capsys):
    react.outputs = lambda body: "x"
    assert main(command(react, "--model", tools_folder, "--prompt", "?")) == 0
    boom = lambda handler: handler.fail(500, {"error": {"message": "boom"}})  # noqa: E731
    react.faults = [lambda handler: handler.send_events([{"choices": [{"text": "x"}]}], None), boom]
    assert main(command(react, "--model", tools_folder, "--prompt", "?")) == 1
    assert "boom" in capsys.readouterr().out


def test_a_server_that_goes_away_leaves_what_is_done(react, tools_folder: Path, tools: Path, tmp_path: Path, capsys):
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "traces.jsonl"
    tasks.write_text("".join(json.dumps({"prompt": f"{n}?"}) + "\n" for n in range(6)), encoding="utf-8")
    flags = ["--model", tools_folder, "--tools", tools, "--dialect", "react", "--tasks", tasks, "--out", out]
    answer, asked = react.outputs, []

    def dying(body) -> str:
        asked.append(body)
        if len(asked) == 6:
            react.key = "changed"
        return answer(body)

    react.outputs = dying
    assert main(command(react, *flags, "--parallel", 1)) == 1
    assert "401" in capsys.readouterr().err
    assert [row["id"] for row in read_lines(out)] == ["1", "2", "3"]
    react.key, react.outputs = None, answer
    assert main(command(react, *flags, "--parallel", 2, "--resume")) == 0
    assert sorted(row["id"] for row in read_lines(out)) == list("123456")


def test_a_server_that_adds_tokens_is_refused(server_kit: ModuleType, tools_folder: Path, capsys):
    tokenizer = Encoder.from_folder(tools_folder).renderer.tokenizer
    with server_kit.serve(server_kit.FakeServer("vllm", tokenizer=tokenizer, added=1)) as fake:
        assert main(command(fake, "--model", tools_folder, "--prompt", "?")) == 1
    assert "puts a token in front" in capsys.readouterr().err


def test_the_servers_context_bounds_the_prompt(server_kit: ModuleType, tools_folder: Path, tools: Path, capsys):
    tokenizer = Encoder.from_folder(tools_folder).renderer.tokenizer
    listed = [{"id": "tiny", "owned_by": "vllm", "max_model_len": 60}]
    with server_kit.serve(server_kit.FakeServer("vllm", tokenizer=tokenizer, models=listed)) as fake:
        flags = ["--model", tools_folder, "--tools", tools, "--dialect", "react", "--prompt", "?", "--json"]
        assert main(command(fake, *flags)) == 0
        trace = json.loads(capsys.readouterr().out)
        assert (trace["stop_reason"], len(fake.bodies)) == ("tokens", 1)
        assert "context 60" in trace["steps"][0]["error"]


# --- prompts of the server --------------------------------------------------------------------------------------------


def test_without_a_model_the_server_writes_prompts(server_kit: ModuleType, tools: Path, capsys):
    with server_kit.serve(server_kit.FakeServer(messages=[NATIVE, [{"content": "Sunny."}, "stop"]])) as fake:
        assert main(command(fake, "--tools", tools, "--prompt", "Rome?", "--json")) == 0
    trace = json.loads(capsys.readouterr().out)
    assert (trace["final_answer"], trace["dialect"]) == ("Sunny.", "chat")
    assert trace["steps"][0]["observations"] == ["sunny in Rome"]
    assert [body["messages"][0]["content"] for body in fake.bodies] == ["Rome?", "Rome?"]


def test_talking_with_a_server(server_kit: ModuleType, tools: Path, tmp_path: Path, monkeypatch, capsys):
    saved = tmp_path / "talk.jsonl"
    lines = ["Rome?", "Thanks", f"/save {saved}"]

    def read(prompt: str) -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr("builtins.input", read)
    answers = [NATIVE, [{"content": "Sunny."}, "stop"], [{"content": "Welcome."}, "stop"]]
    with server_kit.serve(server_kit.FakeServer(messages=answers)) as fake:
        assert main(["chat", "--server", fake.url, "--tools", str(tools)]) == 0
    shown = capsys.readouterr().out
    assert ["Sunny." in shown, "Welcome." in shown, "observation: sunny in Rome" in shown] == [True] * 3
    assert [len(body["messages"]) for body in fake.bodies] == [1, 3, 5]
    row = json.loads(saved.read_text(encoding="utf-8"))
    roles = ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert [message["role"] for message in row["messages"]] == roles


def test_a_question_that_a_server_failed_on_is_taken_back(server_kit: ModuleType, monkeypatch, capsys):
    lines = ["First?", "Second?"]

    def read(prompt: str) -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr("builtins.input", read)
    fake = server_kit.FakeServer(messages=[[{"content": "Yes."}, "stop"]])
    fake.faults = [lambda handler: handler.fail(500, {"error": {"message": "boom"}})]
    with server_kit.serve(fake):
        assert main(["chat", "--server", fake.url]) == 0
    shown = capsys.readouterr().out
    assert ["boom" in shown, "taken back" in shown, "Yes." in shown] == [True] * 3
    assert [[message["content"] for message in body["messages"]] for body in fake.bodies] == [["First?"], ["Second?"]]


def test_the_key_comes_from_the_environment_and_stays_out_of_everything(
    server_kit: ModuleType, tmp_path: Path, monkeypatch, capsys
):
    key = "sk-proj-9f8e7d6c5b4a3f2e1d0c"
    monkeypatch.setenv("MY_KEY", key)
    echo = [{"content": f"your key is {key}, is it not?"}, "stop"]
    out = tmp_path / "trace.json"
    with server_kit.serve(server_kit.FakeServer(messages=[echo], key=key)) as fake:
        assert main(command(fake, "--api_key_env", "MY_KEY", "--prompt", "?", "--json", "--out", out)) == 0
        shown = capsys.readouterr()
        assert "your key is" in shown.out
        assert key not in shown.out + shown.err + out.read_text(encoding="utf-8")
        assert main(command(fake, "--prompt", "?")) == 1
        assert "401" in capsys.readouterr().err
        monkeypatch.setenv("MY_KEY", "sk-wrong-0123456789abcdef")
        assert main(command(fake, "--api_key_env", "MY_KEY", "--prompt", "?")) == 1
        assert "sk-wrong" not in capsys.readouterr().err
        monkeypatch.delenv("MY_KEY")
        assert main(command(fake, "--api_key_env", "MY_KEY", "--prompt", "?")) == 2
        assert "not set" in capsys.readouterr().err


# --- what does not go together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "one of --model and --server"),
        (["--model", "DIR", "--api_key_env", "X"], "there is none"),
        (["--server", "URL", "--base"], "--base"),
        (["--server", "URL", "--dtype", "bf16"], "--dtype"),
        (["--server", "URL", "--server_api", "completions"], "needs the tokenizer"),
        (["--server", "URL", "--dialect", "react"], "--dialect has no effect"),
        (["--server", "URL", "--max_context", "10"], "--max_context has no effect"),
        (["--server", "URL", "--model", "DIR", "--server_api", "chat", "--now", "2024-01-01"], "--now has no effect"),
        (["--server", "127.0.0.1:8000"], "no address"),
        (["--server", "http://me:secret-word@127.0.0.1/v1"], "more than an address"),
        (["--server", "URL", "--max_repeats", "-1"], "max_repeats"),
    ],
)
def test_flags_that_do_not_go_together(server_kit: ModuleType, tools_folder: Path, capsys, flags, said):
    with server_kit.serve(server_kit.FakeServer()) as fake:
        given = [{"URL": fake.url, "DIR": str(tools_folder)}.get(flag, flag) for flag in flags]
        assert main(["run", "--prompt", "?", *given]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "secret-word" not in shown
    assert fake.bodies == []


def test_a_package_that_is_missing_is_said(monkeypatch, capsys):
    import actune.config.extras as extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert main(["run", "--prompt", "?", "--server", "http://127.0.0.1:9"]) == 2
    assert "pip install 'actune[agent]'" in capsys.readouterr().err


def test_a_person_answers_for_a_model_behind_a_server(server_kit: ModuleType, tools: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("rain\n"))
    with server_kit.serve(server_kit.FakeServer(messages=[NATIVE, [{"content": "Rain."}, "stop"]])) as fake:
        assert main(command(fake, "--tools", f"manual:{tools}", "--prompt", "Rome?", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["observations"] == ["rain"]


# --- which part of a history is shown ---------------------------------------------------------------------------------


def run_folder(folder: Path, **data: object) -> str:
    folder.mkdir()
    content = {"version": 1, "date": "2024-01-01", "model_dir": str(folder), "settings": {"data": data}}
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def test_a_run_that_dropped_turns_drops_them_in_use(tmp_path: Path):
    from actune.agents.engines.engine import Sampling
    from actune.agents.loop import Limits

    turns = run_folder(tmp_path / "turns", max_length=512, truncation_strategy="turns")
    whole = run_folder(tmp_path / "delete", max_length=512, truncation_strategy="delete")

    def window(model: str, context: int | None, **more):
        choice = Choice(model=model, limits=Limits(), sampling=Sampling(), **more)
        found = find_window(choice, context)
        return found.context, found.limit, found.bound

    assert window(turns, 4096) == (4096, 512, 512)
    assert window(whole, 4096) == (4096, None, 4096)
    assert window(whole, None) == (None, None, None)
    # What is asked for wins over what the run did, and a context is never longer than the model's.
    assert window(turns, 4096, max_context=1000) == (1000, None, 1000)
    assert window(whole, 300, max_context=1000) == (300, None, 300)

"""MCP servers in use: calls, results, failures of every kind, and that nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from actune.agents.tools.loading import load_toolbox
from actune.agents.tools.mcp.process import LONGEST, signal_group
from actune.agents.tools.toolbox import Observation, Toolbox
from actune.core.errors import ConfigError
from actune.core.types import ToolCall

TOKEN = "tok-987654321"


def call(toolbox: Toolbox, name: str, **arguments: object) -> Observation:
    return toolbox.call(ToolCall(name=name, arguments=json.dumps(arguments)))


def wait_for(done, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(done())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mcp_kit: ModuleType) -> Path:
    path = tmp_path_factory.mktemp("servers")
    mcp_kit.write_scripts(path)
    return path


@pytest.fixture(scope="module")
def good(folder: Path, mcp_kit: ModuleType) -> Iterator[Toolbox]:
    entry = {"command": sys.executable, "args": ["good.py", "cancelled.txt"], "env": {"SECRET_TOKEN": TOKEN}}
    toolbox = load_toolbox([mcp_kit.write_config(folder, {"good": entry})], seconds=20.0)
    yield toolbox
    toolbox.close()


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_and_what_the_model_is_told(good: Toolbox):
    spec = next(spec for spec in good.specs if spec.name == "add")
    assert spec.description == "Add two numbers."
    assert list(spec.parameters["properties"]) == ["a", "b"]
    answer = call(good, "add", a=2, b=3)
    assert (answer.text, answer.error) == ("5", None)
    assert call(good, "add", a="x", b=3).error == "arguments-invalid"
    assert call(good, "no_such_tool").error == "unknown-tool"


def test_twenty_calls_run_at_the_same_time_and_keep_their_order(good: Toolbox):
    calls = [ToolCall(name="meet", arguments=json.dumps({"number": number})) for number in range(20)]
    answers = [answer.text.split() for answer in good.call_all(calls)]
    assert [int(number) for number, _ in answers] == list(range(20))
    assert max(int(most) for _, most in answers) > 3


def test_errors_of_tools(good: Toolbox):
    failed = call(good, "fail")
    assert (failed.error, failed.text) == ("tool-failed", "no such file: x")
    crashed = call(good, "crash")
    assert crashed.error == "tool-failed"
    assert "crash" in crashed.text
    assert call(good, "add", a=1, b=1).text == "2"


def test_what_is_no_text_is_named(good: Toolbox):
    assert call(good, "mixed").text.split("\n") == [
        "first",
        "[image image/png, 5 bytes: not shown]",
        "[link to file:///a.txt: not opened]",
        "最后 last",
        "inside b",
        "[file file:///c.bin x/y, 3 bytes: not shown]",
    ]
    assert call(good, "structured").text == '{"温度": 25}'


def test_odd_names_and_other_scripts(good: Toolbox):
    spec = next(spec for spec in good.specs if spec.description == "中文说明")
    assert spec.name.isascii()
    assert call(good, spec.name, 城市="杭州").text == "杭州晴"


def test_a_server_that_asks_the_client_is_told_no(good: Toolbox):
    answer = call(good, "asks")
    assert answer.error == "tool-failed"


def test_a_server_gets_its_environment_and_no_more(good: Toolbox, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACTUNE_TEST_FOREIGN", "x")
    seen = json.loads(call(good, "environment").text)
    assert seen == {"token": "[secret SECRET_TOKEN]", "foreign": None, "cwd": str(folder)}


def test_a_very_long_answer_costs_little(good: Toolbox):
    long = call(good, "big", size=2_000_000)
    assert (long.error, len(long.text)) == ("output-cut", 20_000 + len("... [cut: 20,000 of 2,000,000 characters]"))
    refused = call(good, "big", size=50_000_000)
    assert refused.error == "tool-failed"
    assert f"more than the {LONGEST:,} that are read" in refused.text
    assert call(good, "add", a=1, b=1).text == "2"


def test_a_call_without_end_is_cancelled_at_the_server(folder: Path, mcp_kit: ModuleType):
    entry = {"command": sys.executable, "args": ["good.py", "forever.txt"], "timeout": 0.5}
    toolbox = load_toolbox([mcp_kit.write_config(folder, {"good": entry}, "forever.json")])
    try:
        answer = call(toolbox, "forever")
        assert (answer.error, answer.text) == ("tool-timeout", "no answer within 0.5 s")
        assert wait_for((folder / "forever.txt").exists)
        assert call(toolbox, "add", a=1, b=1).text == "2"
    finally:
        toolbox.close()
    assert call(toolbox, "add", a=1, b=1).error == "tool-failed"


def test_ctrl_c_stops_the_call_at_the_server(good: Toolbox, folder: Path):
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        call(good, "forever")
    assert wait_for((folder / "cancelled.txt").exists)
    assert call(good, "add", a=1, b=1).text == "2"


def test_a_server_that_dies_is_started_again_for_the_next_call(good: Toolbox):
    died = call(good, "die")
    assert died.error == "tool-failed"
    assert died.text == "the server 'good' ended while the tool ran (exit code 7)"
    assert call(good, "add", a=1, b=1).text == "2"


def test_a_server_that_can_not_be_started_again(folder: Path, mcp_kit: ModuleType, tmp_path: Path):
    (tmp_path / "good.py").write_text((folder / "good.py").read_text(encoding="utf-8"), encoding="utf-8")
    toolbox = load_toolbox([mcp_kit.write_config(tmp_path, {"good": ["good.py"]})])
    try:
        (tmp_path / "good.py").unlink()
        assert call(toolbox, "die").error == "tool-failed"
        for _ in range(3):
            answer = call(toolbox, "add", a=1, b=1)
            assert answer.error == "tool-failed"
            assert "could not be started again: it ended before it answered (exit code 2)" in answer.text
        assert "3 attempts have failed" in call(toolbox, "add", a=1, b=1).text
    finally:
        toolbox.close()


# --- several ----------------------------------------------------------------------------------------------------------


def test_several_servers_and_a_python_file(folder: Path, mcp_kit: ModuleType, tmp_path: Path):
    (tmp_path / "own.py").write_text('def t00() -> str:\n    """Own."""\n    return "python"\n', encoding="utf-8")
    raw = str(folder / "raw.py")
    entry = {"command": sys.executable, "args": [raw, "plain"], "includeTools": ["t00", "t01"]}
    config = mcp_kit.write_config(tmp_path, {"one": entry, "two": [raw, "plain"]})
    record = tmp_path / "seen.jsonl"
    record.write_text('{"name": "one__t01", "arguments": {}, "observation": "recorded"}\n', encoding="utf-8")
    notices: list[str] = []
    toolbox = load_toolbox([config, str(tmp_path / "own.py"), f"record:{record}"], notice=notices.append)
    try:
        names = [spec.name for spec in toolbox.specs]
        # 25 tools over three pages; those of the same name carry their servers, the Python file keeps its own.
        assert names == ["one__t00", "one__t01", "two__t00", "two__t01", *(f"t{n:02}" for n in range(2, 25)), "t00"]
        assert [call(toolbox, name).text for name in ("one__t00", "two__t01", "t07", "t00", "one__t01")] == [
            "t00",
            "t01",
            "t07",
            "python",
            "recorded",
        ]
        assert "'t00' of the MCP server 'one' is called 'one__t00' here" in notices
    finally:
        toolbox.close()


def test_a_list_of_tools_that_names_none(folder: Path, mcp_kit: ModuleType, tmp_path: Path):
    entry = {"command": sys.executable, "args": [str(folder / "raw.py"), "plain"], "disabledTools": ["t99"]}
    with pytest.raises(ConfigError, match="no tool named 't99'"):
        load_toolbox([mcp_kit.write_config(tmp_path, {"raw": entry})])


# --- servers that are not as they should be ---------------------------------------------------------------------------


def load_raw(folder: Path, mcp_kit: ModuleType, tmp_path: Path, how: str, **more: object) -> Toolbox:
    entry = {"command": sys.executable, "args": [str(folder / "raw.py"), how], "startupTimeout": 15, **more}
    return load_toolbox([mcp_kit.write_config(tmp_path, {"raw": entry})], seconds=10.0)


@pytest.mark.parametrize("how", ["garbage", "bytes", "old"])
def test_rough_servers_work(folder: Path, mcp_kit: ModuleType, tmp_path: Path, how):
    toolbox = load_raw(folder, mcp_kit, tmp_path, how)
    try:
        assert call(toolbox, "t05").text == ("bad \ufffd byte" if how == "bytes" else "t05")
    finally:
        toolbox.close()


def test_a_server_that_never_answers(folder: Path, mcp_kit: ModuleType, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"'raw' did not start: it did not answer within 0\.5 s"):
        load_raw(folder, mcp_kit, tmp_path, "silent", startupTimeout=0.5)


def test_a_server_that_fails_shows_what_it_wrote_without_secrets(folder: Path, mcp_kit: ModuleType, tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        load_raw(folder, mcp_kit, tmp_path, "fails", env={"DB_PASSWORD": "hunter2222"})
    text = str(error.value)
    for part in ("mcp.json", "'raw'", "exit code 1", "raw.py fails", "no database at [secret DB_PASSWORD]", "?[31m"):
        assert part in text
    assert "hunter" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("how", "part"), [("nonsense", "did not start"), ("endless", "does not end")])
def test_a_server_that_talks_nonsense(folder: Path, mcp_kit: ModuleType, tmp_path: Path, how, part):
    with pytest.raises(ConfigError, match=part):
        load_raw(folder, mcp_kit, tmp_path, how)


def test_a_program_that_is_not_there(mcp_kit: ModuleType, tmp_path: Path):
    with pytest.raises(ConfigError, match="no program 'no-such-program'"):
        load_toolbox([mcp_kit.write_config(tmp_path, {"x": {"command": "no-such-program"}})])


def test_one_that_fails_ends_the_others(folder: Path, mcp_kit: ModuleType, tmp_path: Path):
    pid = tmp_path / "pid"
    code = f"import os, time\nwhile not os.path.exists({str(pid)!r}): time.sleep(0.01)\nraise SystemExit(5)"
    servers = {"bad": ["-c", code], "other": [str(folder / "raw.py"), "plain", str(pid)]}
    with pytest.raises(ConfigError, match="'bad' did not start"):
        load_toolbox([mcp_kit.write_config(tmp_path, servers)])
    # A killed process stays listed until the system has reaped it.
    assert wait_for(lambda: not signal_group(int(pid.read_text(encoding="utf-8")), 0))


PROGRAM = """
import os, signal, sys, threading
from actune.agents.tools.loading import load_toolbox
from actune.core.types import ToolCall
how = sys.argv[2]
if how == "while starting":
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    toolbox = load_toolbox([sys.argv[1]])
    if how == "while calling":
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        toolbox.call(ToolCall(name="forever", arguments="{}"))
    if how == "closed":
        toolbox.close()
        toolbox.close()
except KeyboardInterrupt:
    print("interrupted")
print("end")
"""


@pytest.mark.parametrize("how", ["closed", "forgotten", "while calling", "while starting"])
def test_no_process_is_left_and_the_program_ends(folder: Path, mcp_kit: ModuleType, tmp_path: Path, how):
    pid, raw = tmp_path / "pid", str(folder / "raw.py")
    kind = "stubborn" if how == "closed" else "silent" if how == "while starting" else "plain"
    servers = {"raw": [raw, kind, str(pid)], "good": [str(folder / "good.py"), str(tmp_path / "cancelled")]}
    command = [sys.executable, "-c", PROGRAM, mcp_kit.write_config(tmp_path, servers), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == (["interrupted", "end"] if "while" in how else ["end"])
    assert "hello from stderr" not in done.stderr  # what servers write is not for the display
    assert done.stderr == ""
    # A killed process stays listed until the system has reaped it.
    assert wait_for(lambda: not signal_group(int(pid.read_text(encoding="utf-8")), 0))


# --- HTTP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse", [False, True])
def test_a_server_over_http(folder: Path, mcp_kit: ModuleType, tmp_path: Path, sse, monkeypatch: pytest.MonkeyPatch):
    cancelled = tmp_path / "cancelled"
    monkeypatch.setattr(sys, "argv", ["good.py", str(cancelled)])
    with mcp_kit.serve_http(folder, token=TOKEN, sse=sse) as url:
        entry = {"url": url, "type": "sse" if sse else "http", "headers": {"Authorization": f"Bearer {TOKEN}"}}
        both = {"good": entry, "hasty": entry | {"timeout": 0.3, "includeTools": ["forever"]}}
        entry["disabledTools"] = ["forever"]
        toolbox = load_toolbox([mcp_kit.write_config(tmp_path, both)], seconds=30.0)
        try:
            assert call(toolbox, "add", a=2, b=3).text == "5"
            assert call(toolbox, "fail").text == "no such file: x"
            answers = toolbox.call_all([ToolCall(name="meet", arguments=f'{{"number": {n}}}') for n in range(8)])
            assert [answer.text.split()[0] for answer in answers] == [str(n) for n in range(8)]
            assert call(toolbox, "forever").error == "tool-timeout"
            assert wait_for(cancelled.exists)
            assert call(toolbox, "big", size=20_000_000).error == "tool-failed"
            assert call(toolbox, "add", a=2, b=3).text == "5"
        finally:
            toolbox.close()
        entry["headers"] = {"Authorization": "Bearer wrong-token"}
        with pytest.raises(ConfigError) as error:
            load_toolbox([mcp_kit.write_config(tmp_path, {"good": entry})])
        assert "401" in str(error.value)
        assert "wrong-token" not in str(error.value)


def test_nobody_is_at_the_address(mcp_kit: ModuleType, tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        load_toolbox([mcp_kit.write_config(tmp_path, {"x": {"url": "http://127.0.0.1:9/mcp?key=abcdef123456"}})])
    assert "ConnectError" in str(error.value)
    assert "abcdef123456" not in str(error.value)

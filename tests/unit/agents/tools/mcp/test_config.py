"""Configurations of MCP servers as other clients write them: what is read, said, refused, and kept secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actune.agents.tools.loading import load_toolbox
from actune.agents.tools.mcp.config import Server, names_servers, read_servers
from actune.agents.tools.secrets import Secrets
from actune.core.errors import ConfigError

ENVIRONMENT = {"TOKEN": "tok-123456", "EMPTY": "", "PLACE": "here"}


def read(tmp_path: Path, servers: object, key: str = "mcpServers") -> tuple[list[Server], list[str], Secrets]:
    secrets = Secrets()
    found, notices = read_servers(tmp_path / "mcp.json", {key: servers, "theme": "dark"}, secrets, ENVIRONMENT)
    return found, notices, secrets


def one(tmp_path: Path, **entry: object) -> Server:
    return read(tmp_path, {"a": entry})[0][0]


@pytest.mark.parametrize("key", ["mcpServers", "servers", "mcp_servers"])
def test_a_stdio_server(tmp_path: Path, key):
    (tmp_path / "sub").mkdir()
    entry = {
        "command": "npx",
        "args": ["-y", "files", "${PLACE}", 5],
        "env": {"KEY": "${env:TOKEN}", "N": 1, "B": True},
    }
    found, notices, _ = read(tmp_path, {"files": entry | {"type": "stdio", "cwd": "sub"}}, key)
    (server,) = found
    assert (server.name, server.transport, server.command) == ("files", "stdio", "npx")
    assert server.args == ("-y", "files", "here", "5")
    assert server.env == {"KEY": "tok-123456", "N": "1", "B": "true"}
    assert server.cwd == tmp_path / "sub"
    assert (server.timeout, server.startup, server.only, server.hidden) == (None, 60.0, None, frozenset())
    assert notices == []


@pytest.mark.parametrize(
    ("entry", "transport"),
    [
        ({"url": "http://h/mcp"}, "http"),
        ({"url": "http://h/mcp", "type": "http"}, "http"),
        ({"url": "http://h/mcp", "type": "streamable-http"}, "http"),
        ({"url": "http://h/mcp", "transport": "streamableHttp"}, "http"),
        ({"url": "http://h/sse", "transportType": "sse"}, "sse"),
        ({"serverUrl": "http://h/mcp"}, "http"),
        ({"httpUrl": "http://h/mcp"}, "http"),
        ({"url": "http://h/mcp", "transport": {"type": "sse"}}, "sse"),
        ({"command": "x", "type": "local"}, "stdio"),
    ],
)
def test_transports(tmp_path: Path, entry, transport):
    assert one(tmp_path, **entry).transport == transport


def test_headers_and_limits(tmp_path: Path):
    server = one(
        tmp_path,
        url="https://h/mcp",
        headers={"Authorization": "Bearer ${TOKEN}"},
        timeout=5,
        startupTimeout=2.5,
        disabledTools=["drop"],
        enabledTools=["read", "drop"],
    )
    assert server.headers == {"Authorization": "Bearer tok-123456"}
    assert (server.timeout, server.startup) == (5.0, 2.5)
    assert (server.only, server.hidden) == (frozenset({"read", "drop"}), frozenset({"drop"}))
    assert one(tmp_path, url="https://h", requestInit={"headers": {"X": "1"}}).headers == {"X": "1"}


def test_variables(tmp_path: Path):
    server = one(
        tmp_path, command="x", args=["${A:-d e}", "${EMPTY:-d}", "${env:A:-}", "$TOKEN", "${userHome}/x", "a${PLACE}b"]
    )
    assert server.args == ("d e", "d", "", "$TOKEN", f"{Path.home()}/x", "ahereb")


def test_commands_and_folders(tmp_path: Path):
    assert one(tmp_path, command="./run.sh").command == str(tmp_path / "run.sh")
    assert one(tmp_path, command="python").command == "python"
    assert one(tmp_path, command="~/x").command == str(Path.home() / "x")
    assert one(tmp_path, command="x").cwd == tmp_path


def test_what_is_disabled_or_not_used(tmp_path: Path):
    entries = {
        "a": {"command": "x", "disabled": True},
        "b": {"command": "x", "enabled": False},
        "c": {"command": "x", "autoApprove": ["y"], "description": "text", "colour": "red", "disabled": False},
        "d": {"command": "x", "env": None, "alwaysAllow": []},
    }
    found, notices, _ = read(tmp_path, entries)
    assert [server.name for server in found] == ["c", "d"]
    assert notices == [
        f"{tmp_path}/mcp.json: server 'c': not used here: autoApprove, description, colour",
        f"{tmp_path}/mcp.json: server 'd': not used here: alwaysAllow",
    ]


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({}, ["neither command nor url"]),
        ({"command": "x", "url": "http://h"}, ["both"]),
        ({"type": "sse", "command": "x"}, ["'sse'", "url"]),
        ({"type": "stdio", "url": "http://h"}, ["'stdio'", "command"]),
        ({"type": "websocket", "url": "http://h"}, ["'websocket'"]),
        ({"type": "stdoi", "command": "x"}, ["did you mean 'stdio'"]),
        ({"url": "ftp://h"}, ["no http address"]),
        ({"comand": "x"}, ["'comand'", "did you mean 'command'"]),
        ({"command": "x", "agrs": []}, ["did you mean 'args'"]),
        ({"command": "x", "deniedTools": ["y"]}, ["'deniedTools'", "not known"]),
        ({"command": "x", "envFile": ".env"}, ["'envFile'"]),
        ({"command": "x", "args": "y"}, ["args", "list"]),
        ({"command": ["x"]}, ["command"]),
        ({"command": ""}, ["command"]),
        ({"command": "x\0y"}, ["command"]),
        ({"command": "x", "env": ["A=b"]}, ["env", "object"]),
        ({"command": "x", "env": {"A": ["b"]}}, ["env.A"]),
        ({"command": "x", "cwd": "nowhere"}, ["cwd", "nowhere"]),
        ({"command": "x", "timeout": 600000}, ["timeout", "milliseconds"]),
        ({"command": "x", "timeout": True}, ["timeout"]),
        ({"command": "x", "disabled": "no"}, ["disabled"]),
        ({"command": "x", "env": {"A": "${GONE}"}}, ["env.A", "GONE", "not set", "export GONE"]),
        ({"url": "http://${GONE}/"}, ["url", "GONE"]),
        ({"command": "x", "args": ["${input:key}"]}, ["args", "${input:key}"]),
        ({"command": "x", "args": ["${workspaceFolder}"]}, ["${workspaceFolder}"]),
        ({"url": "http://h", "headers": {"A": "b\r\nC: d"}}, ["headers.A", "one line"]),
        ({"url": "http://h", "httpUrl": "http://g"}, ["httpUrl"]),
        ("npx", ["no object"]),
    ],
)
def test_what_is_wrong_says_file_server_and_key(tmp_path: Path, entry, parts):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, {"my server": entry})
    for part in ("mcp.json", "'my server'", *parts):
        assert part in str(error.value)


@pytest.mark.parametrize(("servers", "part"), [({}, "no server"), ({"": {"command": "x"}}, "without a name")])
def test_no_server(tmp_path: Path, servers, part):
    with pytest.raises(ConfigError, match=part):
        read(tmp_path, servers)
    with pytest.raises(ConfigError, match="every server is disabled"):
        read(tmp_path, {"a": {"command": "x", "disabled": True}})


def test_values_of_the_file_are_secret(tmp_path: Path):
    *_, secrets = read(
        tmp_path,
        {
            "a": {
                "command": "x",
                "args": ["--api-key", "arg-secret-1"],
                "env": {"PASSWORD": "env-secret-2", "MODE": "x"},
            },
            "b": {"url": "https://h/mcp?key=query-secret-3", "headers": {"Authorization": "Bearer header-secret-4"}},
            "c": {"command": "x", "args": ["${TOKEN}"]},
        },
    )
    text = "arg-secret-1 env-secret-2 query-secret-3 header-secret-4 tok-123456"
    redacted = secrets.redact(text)
    assert "secret-" not in redacted
    assert redacted.endswith("[secret TOKEN]")


def test_a_wrong_value_is_not_shown(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        one(tmp_path, command="x", env="API_KEY=abcdefgh")
    assert "abcdefgh" not in str(error.value)


def test_files_that_are_configurations(tmp_path: Path):
    assert names_servers({"servers": {}})
    assert not names_servers({"servers": []})
    assert not names_servers([{"name": "t"}])
    file = tmp_path / "mcp.json"
    file.write_text('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', encoding="utf-8")
    with pytest.raises(ConfigError, match="'a' stands twice"):
        load_toolbox([str(file)])
    file.write_text(json.dumps({"mcpServers": {"a": {"command": "x"}}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="give both"):
        load_toolbox([f"manual:{file}"], ask=lambda _: "")
    other = tmp_path / "other.json"
    other.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"stands in .*mcp\.json and in .*other\.json"):
        load_toolbox([str(file), str(other)])

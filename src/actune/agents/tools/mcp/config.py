"""The JSON file that names MCP servers, in the shapes that Claude, Cursor, VS Code, Cline, Gemini CLI and others use.

`{"mcpServers": {NAME: {...}}}`, or VS Code's `{"servers": {...}}`. Keys that only concern a client's windows are ignored
and said; a key that is not known is an error where ignoring it could run more than the user wants.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from actune.agents.tools.secrets import Secrets
from actune.core.errors import ConfigError

Transport = Literal["stdio", "http", "sse"]

_TRANSPORTS: dict[str, Transport] = {
    "stdio": "stdio",
    "local": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamablehttp": "http",
    "remote": "http",
    "sse": "sse",
}
# Other names of the same thing -> ours. None: known, without a meaning here.
_ALIASES: dict[str, str | None] = {
    "command": "command",
    "args": "args",
    "env": "env",
    "environment": "env",
    "cwd": "cwd",
    "url": "url",
    "serverUrl": "url",
    "httpUrl": "url",
    "headers": "headers",
    "http_headers": "headers",
    "requestInit": "requestInit",
    "type": "type",
    "transport": "type",
    "transportType": "type",
    "disabled": "disabled",
    "enabled": "enabled",
    "isActive": "enabled",
    "timeout": "timeout",
    "tool_timeout_sec": "timeout",
    "startupTimeout": "startup",
    "startup_timeout_sec": "startup",
    "disabledTools": "disabledTools",
    "disabled_tools": "disabledTools",
    "excludeTools": "disabledTools",
    "includeTools": "enabledTools",
    "enabledTools": "enabledTools",
    "enabled_tools": "enabledTools",
    "allowedTools": "enabledTools",
    "alwaysAllow": None,
    "autoApprove": None,
    "trust": None,
    "name": None,
    "title": None,
    "description": None,
    "icon": None,
    "id": None,
    "tags": None,
    "notes": None,
    "version": None,
    "gallery": None,
    "dev": None,
    "oauth": None,
    "watch": None,
    "watchPaths": None,
    "provider": None,
    "providerUrl": None,
    "logoUrl": None,
    "longRunning": None,
    "registryType": None,
    "$schema": None,
}
# An unknown key with such a part could restrict a server, or change what it may reach.
_DANGEROUS = re.compile(
    r"allow|den[yi]|disab|enab|exclud|includ|block|restrict|read.?only|sandbox|permission|approv|file|user|shell|auth",
    re.IGNORECASE,
)
_TOP_LEVEL = ("mcpServers", "servers", "mcp_servers")
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_FIX = 'write {"mcpServers": {"files": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "."]}}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server: a command to run (`stdio`), or an address (`http` is streamable HTTP, `sse` its predecessor).

    `env` is what the server gets beside PATH, HOME and the like; `timeout` the seconds of one call (None: those of the
    toolbox), `startup` the seconds it may take to answer at all. Of its tools, `only` (None: all) without `hidden` are
    used, by the server's own names. `file` is the file it stands in, `cwd` the folder it runs in.
    """

    name: str
    file: Path
    transport: Transport
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str]
    cwd: Path
    url: str = ""
    headers: Mapping[str, str]
    timeout: float | None = None
    startup: float = 60.0
    only: frozenset[str] | None = None
    hidden: frozenset[str] = frozenset()

    def describe(self) -> str:
        """Return what a person is told of it: the command line or the address; not yet redacted."""
        return " ".join([self.command, *self.args]) if self.transport == "stdio" else self.url


def names_servers(value: object) -> bool:
    """Return whether a JSON value is a configuration of MCP servers."""
    return isinstance(value, dict) and any(isinstance(value.get(key), dict) for key in _TOP_LEVEL)


def read_servers(
    path: Path, value: Mapping[str, Any], secrets: Secrets, environment: Mapping[str, str] | None = None
) -> tuple[list[Server], list[str]]:
    """Return the servers of a configuration that are not disabled, and notices on what is not used of it.

    `${VAR}`, `${env:VAR}` and `${VAR:-default}` are replaced from `environment` (None: that of this process) in all
    texts. Whatever of it counts as a secret is added to `secrets`.

    Raises:
        ConfigError: what is wrong, with file, server and key.
    """
    key = next(key for key in _TOP_LEVEL if isinstance(value.get(key), dict))
    reader = _Reader(path, secrets, os.environ if environment is None else environment)
    listed = value[key]
    if not listed:
        raise ConfigError(f"{path}: {key} names no server", fix=_FIX)
    servers = [reader.read(name, entry) for name, entry in listed.items()]
    found = [server for server in servers if server is not None]
    if not found:
        raise ConfigError(f"{path}: every server is disabled", fix='set "disabled" to false, or leave the file out')
    return found, reader.notices


class _Reader:
    """Reads the servers of one file."""

    def __init__(self, path: Path, secrets: Secrets, environment: Mapping[str, str]) -> None:
        self._path = path
        self._folder = path.absolute().parent
        self._secrets = secrets
        self._environment = environment
        self.notices: list[str] = []

    def read(self, name: str, entry: object) -> Server | None:
        where = f"{self._path}: server {name!r}"
        if not name.strip():
            raise ConfigError(f"{self._path}: a server without a name", fix=_FIX)
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: {_show(entry)} is no object", fix=_FIX)
        known = self._name_keys(entry, where)
        if _flag(known, "disabled", where, default=False) or not _flag(known, "enabled", where, default=True):
            return None
        transport = _read_transport(known, entry, where)
        cwd = self._read_folder(known, where)
        env = self._read_texts(known, "env", where)
        headers = self._read_texts(known, "headers", where)
        args = tuple(self._expand(text, f"{where}: args") for text in _texts(known, "args", where))
        self._secrets.add_arguments(args)
        for values in (env, headers):
            for key, text in values.items():
                self._secrets.add(key, text)
        url = self._expand(_text(known, "url", where), f"{where}: url")
        self._secrets.add("url", url)
        if transport != "stdio" and not url.startswith(("http://", "https://")):
            raise ConfigError(f"{where}: url: {_show(url)} is no http address", fix='write "url": "https://host/mcp"')
        only = known.get("enabledTools")
        return Server(
            name=name,
            file=self._path,
            transport=transport,
            command=self._find_command(self._expand(_text(known, "command", where), f"{where}: command"), cwd),
            args=args,
            env=env,
            cwd=cwd,
            url=url,
            headers=headers,
            timeout=_seconds(known, "timeout", where),
            startup=_seconds(known, "startup", where) or 60.0,
            only=None if only is None else frozenset(_texts(known, "enabledTools", where)),
            hidden=frozenset(_texts(known, "disabledTools", where)),
        )

    def _name_keys(self, entry: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the keys under our names; null is as good as absent."""
        known: dict[str, Any] = {}
        ignored: list[str] = []
        for key, value in entry.items():
            if key not in _ALIASES:
                close = difflib.get_close_matches(key, [name for name, ours in _ALIASES.items() if ours], 1, 0.75)
                if close or _DANGEROUS.search(key):
                    hint = f"did you mean {close[0]!r}?" if close else "remove it if the server shall run without it"
                    raise ConfigError(f"{where}: the key {key!r} is not known", fix=hint)
                ignored.append(key)
            elif _ALIASES[key] is None:
                ignored.append(key)
            elif value is not None:
                ours = _ALIASES[key]
                assert ours is not None
                if ours in known and known[ours] != value:
                    raise ConfigError(f"{where}: {key!r} says again what another key says", fix="keep one of them")
                known[ours] = value
        request = known.pop("requestInit", None)
        if isinstance(request, dict):
            known.setdefault("headers", request.get("headers"))
        if ignored:
            self.notices.append(f"{where}: not used here: {', '.join(ignored)}")
        return known

    def _read_texts(self, known: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
        """Return an object of texts; numbers and truth values are written as JSON writes them."""
        value = known.get(key) or {}
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {key}: {_show(value)} is no object", fix=f'write "{key}": {{"NAME": "value"}}')
        texts: dict[str, str] = {}
        for name, text in value.items():
            if isinstance(text, (dict, list)) or text is None:
                raise ConfigError(f"{where}: {key}.{name}: {_show(text)} is no text", fix="write a text")
            written = text if isinstance(text, str) else json.dumps(text)
            texts[name] = self._expand(written, f"{where}: {key}.{name}")
            if key == "headers" and not (texts[name].isprintable() and name.isascii() and name):
                raise ConfigError(f"{where}: {key}.{name}: a header is one line of text", fix="correct the header")
        return texts

    def _read_folder(self, known: Mapping[str, Any], where: str) -> Path:
        text = self._expand(_text(known, "cwd", where), f"{where}: cwd")
        folder = self._folder / Path(text).expanduser() if text else self._folder
        if not folder.is_dir():
            raise ConfigError(f"{where}: cwd: there is no folder {folder}", fix="a relative cwd is beside the file")
        return folder

    def _find_command(self, command: str, cwd: Path) -> str:
        """Return a command with a path made absolute, from the server's folder; one without is looked up in PATH."""
        if command.startswith("~"):
            return str(Path(command).expanduser())
        separators = {"/", os.sep}
        return str(cwd / command) if any(separator in command for separator in separators) else command

    def _expand(self, text: str, where: str) -> str:
        """Return a text with its `${...}` replaced."""

        def replace(match: re.Match[str]) -> str:
            inner = match.group(1)
            if inner == "userHome":
                return str(Path.home())
            found = _NAME.fullmatch(inner)
            if found is None:
                raise ConfigError(
                    f"{where}: {match.group()} is not known here", fix="use ${VAR} and set VAR in the environment"
                )
            name, default = found.groups()
            value = self._environment.get(name)
            if not value and default is not None:
                return default
            if value is None:
                raise ConfigError(
                    f"{where}: {match.group()}: the environment variable {name} is not set",
                    fix=f"set it (export {name}=...), or write ${{{name}:-default}}",
                )
            self._secrets.add(name, value)
            return value

        return _VARIABLE.sub(replace, text)


def _read_transport(known: Mapping[str, Any], entry: Mapping[str, Any], where: str) -> Transport:
    written = known.get("type")
    if isinstance(written, dict):  # some clients write {"transport": {"type": "stdio"}}
        written = written.get("type")
    if written is None:
        if ("command" in known) == ("url" in known):
            what = "both command and url" if "command" in known else "neither command nor url"
            raise ConfigError(f"{where} has {what}", fix='give "command" (stdio) or "url" (HTTP)')
        return "stdio" if "command" in known else "http"
    transport = _TRANSPORTS.get(written.lower()) if isinstance(written, str) else None
    if transport is None:
        close = difflib.get_close_matches(str(written), _TRANSPORTS, 1)
        hint = f"did you mean {close[0]!r}?" if close else "use stdio, http or sse"
        shown = repr(written[:40]) if isinstance(written, str) else _show(written)
        raise ConfigError(f"{where}: type: {shown} is no transport", fix=hint)
    needed, other = ("command", "url") if transport == "stdio" else ("url", "command")
    if needed not in known or (other in known and entry.get(other)):
        raise ConfigError(f"{where}: type is {written!r}, so it has {needed} and no {other}", fix=f"write {needed}")
    return transport


def _text(known: Mapping[str, Any], key: str, where: str) -> str:
    value = known.get(key, "")
    if not isinstance(value, str) or "\0" in value or (key in known and key != "cwd" and not value.strip()):
        raise ConfigError(f"{where}: {key}: {_show(value)} is no text", fix=f'write "{key}": "..."')
    return value


def _texts(known: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = known.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, (str, int, float)) for item in value):
        raise ConfigError(f"{where}: {key}: {_show(value)} is no list of texts", fix=f'write "{key}": ["..."]')
    return [item if isinstance(item, str) else json.dumps(item) for item in value]


def _flag(known: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = known.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key}: {_show(value)} is neither true nor false", fix="write true or false")
    return value


def _seconds(known: Mapping[str, Any], key: str, where: str) -> float | None:
    value = known.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 7200:
        raise ConfigError(
            f"{where}: {key}: {_show(value)} is no time between 0 and 7200 seconds",
            fix="some clients count in milliseconds; here it is seconds",
        )
    return float(value)


def _show(value: object) -> str:
    """Return a value for a message: never a text of the file, which may be a secret written in the wrong place."""
    return f"{len(value)} characters" if isinstance(value, str) else f"a value of type {type(value).__name__}"

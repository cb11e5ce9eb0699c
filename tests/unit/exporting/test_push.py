"""Pushing to hubs, against servers on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from actune.core.errors import ConfigError, ModelError
from actune.exporting import push as pushing
from actune.exporting.push import parse_target, push

SHA = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "secretsecretsecret"


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face's protocol as an upload needs; large files go to `/lfs/`."""

    def do_GET(self) -> None:
        self.server.seen.append(("GET", self.path))
        self.reply(200, {"id": "o/n", "sha": SHA, "siblings": []})

    def do_PUT(self) -> None:
        self.server.blobs.append(self.read())
        self.reply(200, {})

    def do_POST(self) -> None:
        body = self.read()
        self.server.seen.append(("POST", self.path))
        self.server.tokens.append(self.headers.get("Authorization"))
        if self.server.refuse:
            self.reply(self.server.refuse, {"error": f"no rights for {TOKEN}"})
        elif self.path.endswith("/repos/create"):
            self.server.created.append(json.loads(body))
            self.reply(200, {"url": f"{self.server.address}/o/n", "id": "o/n", "name": "o/n"})
        elif self.path.endswith("/validate-yaml"):
            self.reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in files
            ]
            self.reply(200, {"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = {"href": f"{self.server.address}/lfs/put"}
            self.reply(
                200, {"transfer": "basic", "objects": [one | {"actions": {"upload": upload}} for one in objects]}
            )
        elif "/commit/" in self.path:
            self.server.commits.append([json.loads(line) for line in body.splitlines()])
            url = f"{self.server.address}/o/n/commit/{SHA}"
            self.reply(200, {"success": True, "commitUrl": url, "commitOid": SHA, "hookOutput": ""})
        else:
            self.reply(404, {})

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """A hub on this machine."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    server.seen, server.created, server.commits, server.blobs, server.tokens, server.refuse = [], [], [], [], [], 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)  # as when the variable is set before the process starts
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "README.md").write_text("# x\n")
    (out / "model.safetensors").write_bytes(b"weights")
    return out


@pytest.mark.parametrize("public", [False, True])
def test_a_folder_becomes_one_commit(server: ThreadingHTTPServer, folder: Path, public: bool):
    said: list[str] = []
    address = push(folder, parse_target("hf:o/n"), public=public, say=said.append)
    assert address == f"{server.address}/o/n"
    assert "pushing 3 files" in said[0]
    assert ("public" if public else "private, if it is new") in said[0]
    wanted = "public" if public else "private"
    assert server.created[0].get("visibility", "private" if server.created[0].get("private") else "public") == wanted
    assert [line["value"]["path"] for line in server.commits[0] if "path" in line["value"]] == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert server.blobs == [b"weights"]
    assert set(server.tokens) <= {f"Bearer {TOKEN}", None}
    assert f"Bearer {TOKEN}" in server.tokens


@pytest.mark.parametrize(("status", "words"), [(403, "HF_TOKEN"), (401, "HF_TOKEN"), (500, "by hand")])
def test_a_refusal_is_readable_and_keeps_the_secret(server: ThreadingHTTPServer, folder: Path, status: int, words: str):
    server.refuse = status
    with pytest.raises(ModelError, match="could not be pushed to") as caught:
        push(folder, parse_target("hf:o/n"), public=False, say=lambda _: None)
    assert words in str(caught.value.fix)
    assert TOKEN not in str(caught.value)
    assert "no rights for ***" in str(caught.value)
    assert server.commits == []


def test_a_hub_out_of_reach_is_an_error(server: ThreadingHTTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"could not be pushed to http://127\.0\.0\.1:9"):
        push(folder, parse_target("hf:o/n"), public=False, say=lambda _: None)


@pytest.mark.parametrize("text", ["o/n", "hf:o", "hf:o/n/file", "hf:o/n@main", "hf:../n", "gh:o/n"])
def test_only_a_repository_is_a_target(text: str):
    with pytest.raises(ConfigError):
        parse_target(text)


def test_modelscope_gets_the_folder_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    hub = pytest.importorskip("modelscope_hub")
    calls: list[tuple] = []

    class Api:
        def __init__(self, config: object) -> None:
            pass

        def repo_exists(self, name: str, kind: str) -> bool:
            return False

        def create_repo(self, name: str, kind: str, **given: object) -> None:
            calls.append(("create", name, kind, given))

        def upload_folder(self, name: str, kind: str, path: Path, **given: object) -> None:
            calls.append(("upload", name, kind, path))

    monkeypatch.setattr(hub, "HubApi", Api)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "https://modelscope.invalid")
    address = push(folder, parse_target("ms:o/n"), public=False, say=lambda _: None)
    assert address.endswith("/models/o/n")
    assert calls == [("create", "o/n", "model", {"visibility": "private"}), ("upload", "o/n", "model", folder)]


def test_secrets_in_messages_are_masked():
    assert pushing._SECRET.sub("***", f"bad token {TOKEN} given") == "bad token *** given"

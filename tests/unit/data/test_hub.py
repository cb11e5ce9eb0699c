"""Downloads from both hubs against a server on this machine, and what is said when there is none."""

from __future__ import annotations

import builtins
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from actune.core.errors import ConfigError, MissingExtraError
from actune.data.reading import hub
from actune.data.reading.hub import download_dataset, parse_hub_id, refuse_no_model, resolve_model
from actune.data.reading.sources import load_conversations

SHA = "0123456789abcdef0123456789abcdef01234567"
ROWS = "".join(json.dumps({"query": f"q{n}", "response": "r"}) + "\n" for n in range(3)).encode()
CONFIG = b'{"model_type": "x"}'


class Hub(BaseHTTPRequestHandler):
    """As much of both protocols as a download needs; `server.files` maps a path in the repository to its bytes."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        url = urlsplit(self.path)
        self.server.seen.append(url.path)
        path, query = unquote(url.path), {key: values[0] for key, values in parse_qs(url.query).items()}
        files: dict[str, bytes] = self.server.files
        kind = "models" if "/models/" in path or path.startswith("/o/n/resolve") else "datasets"
        if path == f"/api/{kind}/o/n/revision/{self.server.revision}":
            self.send_json({"id": "o/n", "sha": SHA, "siblings": []}, body)
        elif path == f"/api/{kind}/o/n/tree/{SHA}":
            listing = [{"type": "file", "path": p, "size": len(data), "oid": "0" * 40} for p, data in files.items()]
            self.send_json(listing, body)
        elif f"/o/n/resolve/{SHA}/" in path:
            self.send_file(files.get(path.split(f"/resolve/{SHA}/")[1]), body)
        elif path in (f"/api/v1/{kind}/o/n/repo/tree", f"/api/v1/{kind}/o/n/repo/files"):
            listing = [
                {"Path": p, "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest(), "Type": "blob"}
                for p, data in files.items()
            ]
            self.send_json({"Code": 200, "Success": True, "Data": {"Files": listing}}, body)
        elif path == f"/api/v1/{kind}/o/n/repo":
            self.send_file(files.get(query.get("FilePath", "")), body)
        else:
            self.send_file(None, body)

    def send_json(self, value: object, body: bool) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

    def send_file(self, data: bytes | None, body: bool) -> None:
        if data is None:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound", "Content-Type": "application/json"}, body)
            return
        tag = hashlib.sha256(data).hexdigest()
        self.send(
            200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": SHA, "Content-Type": "application/octet-stream"}, body
        )

    def send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[ThreadingHTTPServer]:
    """A hub on this machine, with both libraries' caches in the test's folder."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.seen, server.revision = {}, [], "main"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "MODELSCOPE_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "ms-home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["hf", "ms"])
def name(request) -> str:
    """The id of the test repository on each hub."""
    if request.param == "ms":
        pytest.importorskip("modelscope_hub")
    return f"{request.param}:o/n"


def inside(download: hub.Download) -> list[str]:
    return [path.relative_to(download.root).as_posix() for path in download.files]


def test_a_dataset_becomes_conversations(server, name):
    server.files = {"data/train.jsonl": ROWS, "README.md": b"x", "dataset_infos.json": b"{}", "load.py": b"x"}
    loaded = load_conversations(f"{name}#2", seed=1)
    assert (len(loaded.conversations), loaded.available, loaded.notices) == (2, 3, ())
    assert loaded.conversations[0].source.file == f"{name}/data/train.jsonl"
    assert loaded.conversations[0].source.dataset == name
    assert not any("load.py" in path or "README" in path for path in server.seen)


def test_registry_names_are_modelscope_ids(server, monkeypatch):
    pytest.importorskip("modelscope_hub")
    server.files = {"train.jsonl": ROWS}
    monkeypatch.setattr("actune.data.reading.files.REGISTRY", {"ms-agent": "ms:o/n"})
    loaded = load_conversations("ms-agent")
    assert (loaded.name, len(loaded.conversations)) == ("ms-agent", 3)
    assert loaded.conversations[0].source.file == "ms:o/n/train.jsonl"


def test_held_out_splits_are_left_out_and_said(server, name):
    server.files = {"train.jsonl": ROWS, "test.jsonl": ROWS, "latest.jsonl": ROWS}
    download = download_dataset(name)
    assert inside(download) == ["latest.jsonl", "train.jsonl"]
    assert "test.jsonl" in download.notices[0]
    assert inside(download_dataset(f"{name}/test.jsonl")) == ["test.jsonl"]


def test_several_file_types_are_refused_until_one_is_named(server, name):
    server.files = {"a.jsonl": ROWS, "b/a.json": b"[]"}
    with pytest.raises(ConfigError, match="several types"):
        download_dataset(name)
    assert inside(download_dataset(f"{name}/b")) == ["b/a.json"]


def test_a_repository_without_data_is_a_setting_error(server, name):
    server.files = {"README.md": b"x"}
    with pytest.raises(ConfigError, match="no data file"):
        download_dataset(name)


def test_a_repository_that_is_not_there(server, name):
    begin = time.perf_counter()
    with pytest.raises(ConfigError, match="could not be fetched") as caught:
        download_dataset(f"{name[:2]}:o/other")
    assert "check the name" in str(caught.value.fix)
    assert time.perf_counter() - begin < 20


def test_a_second_time_the_cache_serves_without_network(server, name, monkeypatch):
    server.files = {"train.jsonl": ROWS}
    assert inside(download_dataset(name)) == ["train.jsonl"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert inside(download_dataset(name)) == ["train.jsonl"]


def test_without_network_the_message_says_how_to_provide_files(server, name, monkeypatch):
    with socket.socket() as unused:  # bound, not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
        begin = time.perf_counter()
        with pytest.raises(ConfigError) as caught:
            download_dataset(name)
        assert time.perf_counter() - begin < 10
    assert address in caught.value.message
    assert "no connection" in caught.value.message
    assert "give the path" in str(caught.value.fix)
    assert caught.value.exit_code == 2


def test_offline_variables_are_obeyed(server, monkeypatch):
    server.files = {"train.jsonl": ROWS}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        download_dataset("hf:o/n")
    assert server.seen == []


def test_a_listing_cannot_write_outside_the_cache(server, name, tmp_path):
    server.files = {"train.jsonl": ROWS, "../../../../../escaped.jsonl": ROWS}
    try:
        files = download_dataset(name).files
    except ConfigError as error:
        assert "escaped" in error.message or "leave" in error.message  # noqa: PT017 - either way out is good
    else:
        assert all("escaped" not in path.name for path in files)
    assert list(tmp_path.parent.rglob("escaped.jsonl*")) == []


def test_a_model_comes_without_pickles_and_code(server, name):
    server.files = {
        "config.json": CONFIG, "model.safetensors": b"w", "pytorch_model.bin": b"p", "modeling_x.py": b"c",
        "tokenizer.json": b"{}", "chat_template.jinja": b"t", "original/params.json": b"{}", "README.md": b"r",
    }  # fmt: skip
    planned = resolve_model(name, weights=False)  # a plan needs no weights, and a run gets them afterwards
    assert (planned / "config.json").is_file()
    assert not list(planned.glob("*.safetensors"))
    folder = resolve_model(name)
    expected = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == expected
    assert (folder / "config.json").read_bytes() == CONFIG
    assert (resolve_model(name, with_code=True) / "modeling_x.py").is_file()


def test_a_bare_name_is_huggingface_and_the_revision_is_passed_on(server):
    server.files, server.revision = {"config.json": CONFIG}, "v1.0"
    assert (resolve_model("o/n", "v1.0") / "config.json").is_file()
    assert "/api/models/o/n/revision/v1.0" in server.seen


def test_a_repository_without_config_is_no_model(server, name):
    server.files = {"tokenizer.json": b"{}"}
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve_model(name)


def test_an_existing_folder_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o/model").mkdir(parents=True)
    assert resolve_model("o/model") == Path("o/model")
    with pytest.raises(ConfigError, match=r"no model folder 'o/modle'") as caught:
        resolve_model("o/modle")
    assert "did you mean 'o/model'" in str(caught.value.fix)


@pytest.mark.parametrize("text", ["", "nothing-here", "./o/n", "/o/n", "a/b/c"])
def test_what_is_neither_folder_nor_id(text):
    with pytest.raises(ConfigError):
        resolve_model(text)


@pytest.mark.parametrize(
    "text",
    ["hf:", "hf:o", "hf:../n", "hf:o/..", "hf:o/n/../../x", "ms:o//n", "ms:/o/n", "hf:o/n@", "hf:o/n@../x", "hf:o\\n/x", "hf:.o/n", "xx:o/n", "hf:o/n\n"],
)  # fmt: skip
def test_ids_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="is no hub id"):
        parse_hub_id(text)


def test_an_id_has_parts():
    name = parse_hub_id("ms:iic/ms_agent/data/a.jsonl@v1.0")
    assert (name.hub, name.repository, name.path, name.revision) == ("ms", "iic/ms_agent", "data/a.jsonl", "v1.0")
    assert parse_hub_id(str(name)) == name


def test_modelscope_without_its_package_prints_the_install_command(monkeypatch):
    real = builtins.__import__

    def refuse(name: str, *rest: object, **more: object) -> object:
        if name.startswith("modelscope_hub"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'actune\[modelscope\]'"):
        download_dataset("ms:o/n")


@pytest.mark.parametrize(
    ("files", "weights", "words"),
    [
        (["adapter_config.json"], False, "is an adapter"),
        (["run.json"], False, "is the folder of a run"),
        (["tokenizer.json"], False, r"config\.json is missing"),
        (["config.json"], True, "no weights"),
    ],
)
def test_a_folder_that_is_no_model_is_named_for_what_it_is(tmp_path, files, weights, words):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=words):
        refuse_no_model(tmp_path, weights=weights)


def test_a_model_is_not_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    refuse_no_model(tmp_path, weights=False)
    (tmp_path / "model.safetensors").write_text("")
    refuse_no_model(tmp_path, weights=True)


def test_a_file_is_no_model_folder(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        resolve_model(str(tmp_path / "model"))

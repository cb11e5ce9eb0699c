"""Files of the two hubs, brought to local disk: data files of a dataset, or the folder of a model.

`hf:owner/name` goes through huggingface_hub, `ms:owner/name` through modelscope-hub (an extra). Both libraries keep
their own caches, resume downloads and check hashes; this module adds what they lack here: names and paths that cannot
leave the cache, no waiting for a network that is not there, and messages that say how to provide the files by hand.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import socket
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn
from urllib.parse import urlsplit

from actune.core.errors import ConfigError, MissingExtraError

Kind = Literal["dataset", "model"]

CONNECT_SECONDS = 5.0
"""How long to wait for a hub to accept a connection before it counts as out of reach."""

_PACKED = ("", ".gz", ".zst")
# No .txt: in a repository that is a licence or a note.
DATA_PATTERNS = tuple(f"*.{kind}{packed}" for kind in ("jsonl", "json", "parquet", "csv") for packed in _PACKED)
# Weights as safetensors only: the other layouts are pickles, which run code when they are read.
_WEIGHTS = "*.safetensors"
MODEL_PATTERNS = (_WEIGHTS, "*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_MODEL_LEFT_OUT = (*_PICKLES, "*.gguf", "original/*", "onnx/*")
# Files beside the data that describe it.
_DATA_LEFT_OUT = (
    "dataset_infos.json", "dataset_info.json", "state.json", "configuration.json", "config.json", ".*", "*/.*"
)  # fmt: skip
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")
_HELD_OUT = re.compile(r"(?:^|[^a-z])(?:test|valid|validation|val|dev|eval)(?:[^a-z]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubId:
    """A repository on a hub: `hf:owner/name[@revision]` or with a file or folder in it, `hf:owner/name/path`."""

    hub: Literal["hf", "ms"]
    repository: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.hub}:{self.repository}{f'/{self.path}' if self.path else ''}{revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Local files of a dataset: `files` under `root`, sorted; `notices` says what was left out or not checked."""

    root: Path
    files: tuple[Path, ...]
    notices: tuple[str, ...] = ()


def is_hub_id(text: str) -> bool:
    """Whether `text` names a hub explicitly."""
    return text.startswith(("hf:", "ms:"))


def parse_hub_id(text: str) -> HubId:
    """Return the parts of `hf:owner/name[/path][@revision]` (or `ms:`).

    Raises:
        ConfigError: it is not of that form; names that could leave the cache folder are refused.
    """
    hub, _, rest = text.partition(":")
    name, _, revision = rest.partition("@")
    parts = name.split("/")
    good = hub in ("hf", "ms") and len(parts) >= 2 and all(_PART.fullmatch(part) for part in parts)
    good = good and ("@" not in rest or _REVISION.fullmatch(revision) is not None)
    if not good or ".." in rest:
        raise ConfigError(
            f"{text!r} is no hub id",
            fix="write hf:owner/name or ms:owner/name, with @revision if needed, or /file for one file of it",
        )
    return HubId(
        hub="hf" if hub == "hf" else "ms",
        repository="/".join(parts[:2]),
        revision=revision or None,
        path="/".join(parts[2:]),
    )


def download_dataset(text: str) -> Download:
    """Bring the data files of `hf:owner/name` or `ms:owner/name` to disk.

    Of files named after a split, those of held-out splits (test, validation) are left out when others remain; a
    notice says so. A path in the id names files outright.

    Raises:
        ConfigError: the id is wrong, the hub is out of reach and nothing is cached, there is no data file, or the
            repository holds its rows in several file types.
        MissingExtraError: `ms:` without modelscope-hub.
    """
    name = parse_hub_id(text)
    allow = (name.path, f"{name.path}/*") if name.path else DATA_PATTERNS
    root, notices = _fetch(name, "dataset", allow, _DATA_LEFT_OUT)
    files = [path for path in _files(root, DATA_PATTERNS, _DATA_LEFT_OUT) if _is_under(path, root, name.path)]
    if not files:
        raise ConfigError(
            f"{name} has no data file ({', '.join(DATA_PATTERNS[:: len(_PACKED)])})",
            fix="look at its files on the hub, and name one: " + f"{name.hub}:{name.repository}/FILE",
        )
    if not name.path:
        files, left_out = _training_files(files, root)
        shown = ", ".join(path.relative_to(root).as_posix() for path in left_out[:5])
        notices += [f"{name}: {len(left_out)} files of held-out splits are not used: {shown}"] if left_out else []
    kinds = {path.name.removesuffix(".gz").removesuffix(".zst").rsplit(".", 1)[-1] for path in files}
    if len(kinds) > 1:
        shown = ", ".join(path.relative_to(root).as_posix() for path in files[:8])
        raise ConfigError(
            f"{name} has data files of several types, perhaps the same rows: {shown}",
            fix=f"name the one to use: {name.hub}:{name.repository}/{files[0].relative_to(root).as_posix()}",
        )
    return Download(root=root, files=tuple(files), notices=tuple(notices))


def resolve_model(
    model_id_or_path: str, revision: str | None = None, *, with_code: bool = False, weights: bool = True
) -> Path:
    """Return the local folder of a model: an existing folder as it is, else downloaded from a hub.

    A bare `owner/name` means `hf:`. Only safetensors weights (unless not `weights`), JSON, templates and tokenizer files
    are fetched; Python files only when `with_code`.

    Raises:
        ConfigError: no such folder, a wrong id, or a hub out of reach with nothing cached.
        MissingExtraError: `ms:` without modelscope-hub.
    """
    folder = Path(model_id_or_path).expanduser()
    if model_id_or_path and folder.is_dir():
        return folder
    if model_id_or_path and folder.is_file():
        raise ConfigError(f"{model_id_or_path!r} is a file, not a model folder", fix="give the folder of the model")
    bare = bool(re.fullmatch(rf"{_PART.pattern}/{_PART.pattern}", model_id_or_path)) and not folder.parent.is_dir()
    if not bare and not is_hub_id(model_id_or_path):
        raise ConfigError(
            f"there is no model folder {model_id_or_path!r}" if model_id_or_path else "no model is named",
            fix=f"{near_entries(folder)}give a folder with config.json, or a hub id (hf:owner/name, ms:owner/name)",
        )
    name = parse_hub_id(f"hf:{model_id_or_path}" if bare else model_id_or_path)
    if name.path:
        raise ConfigError(
            f"{model_id_or_path!r} names a file; a model is a whole repository", fix="write hf:owner/name"
        )
    if revision is not None:
        name = parse_hub_id(f"{name.hub}:{name.repository}@{revision}")
    left_out = _MODEL_LEFT_OUT if weights else (*_MODEL_LEFT_OUT, _WEIGHTS)
    root, _ = _fetch(name, "model", MODEL_PATTERNS + (("*.py",) if with_code else ()), left_out)
    if not (root / "config.json").is_file():
        raise ConfigError(f"{name} has no config.json: it is no model", fix="check the name on the hub")
    return root


def refuse_no_model(folder: Path, *, weights: bool) -> None:
    """Refuse a folder that is no model to load: an adapter, a run, an unfinished download.

    Pickled weights are left to the loader, which says why it does not read them.

    Raises:
        ConfigError: what the folder is instead, and what to give.
    """
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            what = "is an adapter, not a model"
            fix = (
                "give its base model; or merge the two first: actune export --model BASE --adapter ADAPTER --to merged"
            )
        elif (folder / "run.json").is_file():
            what = "is the folder of a run, not a model"
            fix = f"merge its adapter first: actune export --model {folder} --to merged --out DIR, and give DIR"
            if (folder / "model" / "config.json").is_file():
                fix = f"give {folder / 'model'}"
        else:
            what, fix = "is no model: config.json is missing", "give the folder that holds config.json and weights"
        raise ConfigError(f"{folder} {what}", fix=fix)
    if weights and not any(path for pattern in ("*.safetensors", *_PICKLES) for path in folder.glob(pattern)):
        raise ConfigError(
            f"{folder} holds no weights: no file ends in .safetensors", fix="complete the download of the model"
        )


def near_entries(path: Path) -> str:
    """Return "did you mean ...? " for a path that does not exist, from the entries of its folder; else ""."""
    try:
        entries = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, entries, n=1)
    return f"did you mean {str(path.parent / near[0])!r}? " if near else ""


# --- one hub each -----------------------------------------------------------------------------------------------------


def _fetch(name: HubId, kind: Kind, allow: Sequence[str], leave: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the local folder of a repository, and notices; only files that match `allow` and not `leave`."""
    fetch = _fetch_hf if name.hub == "hf" else _fetch_ms
    root, notices = fetch(name, kind, list(allow), list(leave))
    return root, notices


def _fetch_hf(name: HubId, kind: Kind, allow: list[str], leave: list[str]) -> tuple[Path, list[str]]:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    offline = _is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE") or constants.HF_HUB_OFFLINE
    why = "HF_HUB_OFFLINE is set" if offline else _out_of_reach(endpoint)
    # The base of the library's HTTP errors is that of the client it was built on (httpx or httpx2).
    failures = (HfHubHTTPError.__mro__[1], OSError, ValueError)
    try:
        root = huggingface_hub.snapshot_download(
            name.repository,
            repo_type=kind,
            revision=name.revision,
            endpoint=endpoint.rstrip("/"),
            allow_patterns=allow,
            ignore_patterns=leave,
            local_files_only=why is not None,
            etag_timeout=CONNECT_SECONDS,
            max_workers=4,
        )
    except LocalEntryNotFoundError as error:
        _refuse(name, kind, endpoint, why or _first_line(error), error)
    except failures as error:
        _refuse(name, kind, endpoint, _first_line(error), error)
    return Path(root), []


def _fetch_ms(name: HubId, kind: Kind, allow: list[str], leave: list[str]) -> tuple[Path, list[str]]:
    try:
        from modelscope_hub import HubApi
        from modelscope_hub.config import HubConfig
        from modelscope_hub.errors import HubError
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is on ModelScope, and modelscope-hub is not installed",
            fix="pip install 'actune[modelscope]'; or download the files and give their path",
        ) from error
    config = HubConfig()
    endpoint = str(config.endpoint)
    why = "MODELSCOPE_OFFLINE is set" if _is_set("MODELSCOPE_OFFLINE") else _out_of_reach(endpoint)
    api = HubApi(config)
    try:
        if why is not None:
            root = api.download_repo(name.repository, kind, revision=name.revision, local_files_only=True)
            return Path(root), [f"{name}: {why}; the files in the local cache are used, complete or not"]
        # The library joins the paths of the listing to the cache folder as they come, so they are looked at first.
        listed = api.list_repo_files(name.repository, kind, revision=name.revision)
        wanted = [
            entry
            for entry in listed
            if entry.type != "tree" and _matches(entry.path, allow) and not _matches(entry.path, leave)
        ]
        for entry in wanted:
            _refuse_escape(entry.path, name)
        entries = [
            {"Path": entry.path, "Sha256": entry.sha256} | ({"Size": entry.size} if entry.size else {})
            for entry in wanted
        ]
        root = api.download_repo(name.repository, kind, revision=name.revision, file_list=entries)
    except (HubError, OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        _refuse(name, kind, endpoint, why or _first_line(error), error)
    return Path(root), []


def _refuse(name: HubId, kind: Kind, endpoint: str, why: str, cause: Exception) -> NoReturn:
    variable = "HF_ENDPOINT" if name.hub == "hf" else "MODELSCOPE_ENDPOINT"
    what = "the folder of the model" if kind == "model" else "its files (jsonl, json, parquet, csv), or their folder"
    raise ConfigError(
        f"the {kind} {name} could not be fetched from {endpoint} and is not in the local cache: {why}",
        fix=f"download it elsewhere and give the path of {what}; or check the name, the network and {variable}"
        + (" (a mirror), or fill the cache and set HF_HUB_OFFLINE=1" if name.hub == "hf" else ""),
    ) from cause


def _out_of_reach(endpoint: str) -> str | None:
    """Return why a server cannot be reached, or None; asks for a connection only, so it costs one round trip.

    The libraries would retry for minutes. Behind a proxy the question cannot be answered this way and is not asked.
    """
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(host):
        return None
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return f"no connection to {host}: {error}"


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().upper() in ("1", "ON", "YES", "TRUE")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# --- paths ------------------------------------------------------------------------------------------------------------


def _refuse_escape(path: str, name: HubId) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "~")) or ".." in parts or "\\" in path or ":" in parts[0] or "\0" in path:
        raise ConfigError(
            f"{name} lists a file with the path {path!r}, which would leave the cache folder",
            fix="do not use this repository",
        )


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _files(root: Path, allow: Sequence[str], leave: Sequence[str]) -> list[Path]:
    """Return the files under `root` that match, sorted, each inside it (the HF cache links to blobs beside it)."""
    found = []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root).as_posix()
        if path.is_file() and _matches(inside, allow) and not _matches(inside, leave):
            found.append(path)
    return found


def _is_under(path: Path, root: Path, inside: str) -> bool:
    relative = path.relative_to(root).as_posix()
    return not inside or relative == inside or relative.startswith(inside + "/")


def _training_files(files: list[Path], root: Path) -> tuple[list[Path], list[Path]]:
    held_out = [path for path in files if _HELD_OUT.search(path.relative_to(root).as_posix().lower())]
    kept = [path for path in files if path not in held_out]
    return (kept, held_out) if kept else (files, [])

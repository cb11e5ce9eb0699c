"""Where a model comes from, in words that may leave this machine: names and hub addresses, no paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_HUB_ID = re.compile(r"(?:(hf|ms):)?([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)(?:@[\w./-]+)?")
_SITES = {"hf": "https://huggingface.co/", "ms": "https://modelscope.cn/models/"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The base model: its name, its id and address on a hub if it has them, and its licence where it is known."""

    name: str
    hub_id: str | None = None
    url: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()


def find_origin(named: str, folder: Path) -> Origin:
    """Return the origin of a base model that was named `named` (a hub id or a path) and lies in `folder`."""
    front = read_front_matter(folder / "README.md")
    licence = front.get("license_name") or front.get("license")
    spoken = front.get("language")
    spoken = [spoken] if isinstance(spoken, str) else spoken
    known = {
        "license": str(licence) if isinstance(licence, str) else None,
        "languages": tuple(one for one in spoken if isinstance(one, str)) if isinstance(spoken, list) else (),
    }
    match = None if Path(named).expanduser().exists() else _HUB_ID.fullmatch(named)
    if match is None:
        return Origin(name=safe_name(Path(named).name or folder.resolve().name), **known)
    hub, repository = match.group(1) or "hf", match.group(2)
    return Origin(name=repository.split("/")[1], hub_id=repository, url=_SITES[hub] + repository, **known)


def read_front_matter(path: Path) -> Mapping[str, Any]:
    """Return the YAML at the head of a model card, {} where there is none that can be read."""
    try:
        text = path.read_text(encoding="utf-8")
        _, block, _ = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
        found = yaml.safe_load(block)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def safe_name(text: str) -> str:
    """Return a name of a file or folder in characters that hubs and Markdown take."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "model"

"""The catalogue of settings, read once from the pydantic models: for the loaders, the help text and the documentation."""

from __future__ import annotations

import datetime
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from actune.config.settings import Group, Settings

Kind = Literal["text", "texts", "pairs", "whole", "number", "switch", "choice", "date"]

# Shorter or older spellings of a flag. Recipes know field names only.
FLAG_ALIASES: Mapping[str, str] = {"model": "model_id_or_path"}
# What a flag without a value means; every other flag needs one.
BARE_FLAGS: Mapping[str, str] = {"resume": "auto", "gradient_checkpointing": "true"}

_KINDS: Mapping[object, Kind] = {str: "text", int: "whole", float: "number", bool: "switch", datetime.date: "date"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One setting: `group.name` in a recipe, `--name` on the command line.

    `bounds` is the allowed range in words ("1 or more"), empty when there is none. `default` is the value of the
    model, `nullable` whether it may be absent (None).
    """

    group: str
    name: str
    kind: Kind
    nullable: bool
    choices: tuple[str, ...]
    bounds: str
    default: object
    description: str

    @property
    def path(self) -> str:
        """Place in a recipe."""
        return f"{self.group}.{self.name}"

    @property
    def several(self) -> bool:
        """Whether it takes any number of words."""
        return self.kind in ("texts", "pairs")

    @property
    def type_text(self) -> str:
        """What may be written, for people."""
        words = {
            "text": "text",
            "texts": "text ...",
            "pairs": "NAME=VALUE ...",
            "whole": "whole number",
            "number": "number",
            "switch": "true|false",
            "choice": "|".join(self.choices),
            "date": "YYYY-MM-DD",
        }[self.kind]
        return f"{words}, {self.bounds}" if self.bounds else words

    @property
    def default_text(self) -> str:
        """The default as it would be written after the flag; empty when the setting has none."""
        if self.default is None or self.default in ("", ()):
            return ""
        if isinstance(self.default, tuple):
            return " ".join(str(item) for item in self.default)
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


@functools.cache
def list_leaves() -> tuple[Leaf, ...]:
    """Return every setting in the order of the models."""
    return tuple(_walk())


@functools.cache
def index_leaves() -> Mapping[str, Leaf]:
    """Return every setting by its name; names are unique over the tree."""
    leaves = list_leaves()
    index = {leaf.name: leaf for leaf in leaves}
    assert len(index) == len(leaves), "two settings share a name"
    return types.MappingProxyType(index)


@functools.cache
def list_groups() -> Mapping[str, type[Group]]:
    """Return the groups by name, in order."""
    return {name: typing.cast("type[Group]", field.annotation) for name, field in Settings.model_fields.items()}


def describe_group(name: str) -> str:
    """Return the first line of a group's docstring."""
    return (list_groups()[name].__doc__ or "").strip().splitlines()[0]


def _walk() -> Iterator[Leaf]:
    for group, model in list_groups().items():
        for name, field in model.model_fields.items():
            annotation, metadata, nullable = _unwrap(field)
            kind, choices = ("pairs", ()) if "pairs" in metadata else _read_kind(annotation)
            yield Leaf(
                group=group,
                name=name,
                kind=kind,
                nullable=nullable,
                choices=choices,
                bounds=_write_bounds(metadata),
                default=field.default,
                description=field.description or "",
            )


def _unwrap(field: FieldInfo) -> tuple[Any, list[Any], bool]:
    """Return the bare type, its constraints, and whether None is allowed."""
    annotation, metadata, nullable = field.annotation, list(field.metadata), False
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        inner = [item for item in typing.get_args(annotation) if item is not type(None)]
        assert len(inner) == 1, "a setting has one type, or that type and None"
        annotation, nullable = inner[0], True
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *extra = typing.get_args(annotation)
        for item in extra:
            metadata += item.metadata if isinstance(item, FieldInfo) else [item]
    return annotation, metadata, nullable


def _read_kind(annotation: object) -> tuple[Kind, tuple[str, ...]]:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return "choice", tuple(typing.get_args(annotation))
    if origin is tuple:
        return "texts", ()
    return _KINDS[annotation], ()


def _write_bounds(metadata: list[Any]) -> str:
    parts = []
    for item in metadata:
        if isinstance(item, Ge):
            parts.append(f"{item.ge:g} or more")
        elif isinstance(item, Gt):
            parts.append(f"more than {item.gt:g}")
        elif isinstance(item, Le):
            parts.append(f"{item.le:g} or less")
        elif isinstance(item, Lt):
            parts.append(f"less than {item.lt}")
    return " and ".join(parts)

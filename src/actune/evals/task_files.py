"""Tasks by name or from a file: what to measure, on which data; read strictly, every problem with file and line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from actune.config.suggest import suggest
from actune.core.errors import ConfigError, DataError
from actune.core.types import Conversation, Source
from actune.data.identity import heldout_rows
from actune.data.reading.files import REGISTRY
from actune.data.reading.hub import is_hub_id
from actune.data.reading.sources import load_conversations, read_file
from actune.evals.outputs import refuse
from actune.evals.tasks import (
    Item,
    Question,
    Steps,
    agent_items,
    choice_items,
    identity_items,
    nll_items,
    over_trigger_items,
    seen_tools,
)

VERSION = 1
BUILT_IN = ("identity",)
"""Tasks that need no file: unseen paraphrases of the questions that teach a name and an author."""

TaskKind = Literal["agent", "choice", "nll", "identity", "over_trigger"]
_COMMON = {"name": "text", "kind": "text", "data": "texts", "limit": "count"}
_KEYS: Mapping[str, Mapping[str, str]] = {
    "agent": _COMMON | {"format": "text", "steps": "text", "seen_tools": "names"},
    "nll": _COMMON | {"format": "text"},
    "choice": _COMMON,
    "identity": _COMMON | {"format": "text", "model_name": "texts", "model_author": "texts"},
    "over_trigger": _COMMON | {"format": "text", "model_name": "texts", "model_author": "texts"},
}
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "agent": ("data", "seen_tools"),
    "nll": ("data",),
    "choice": ("data",),
    "identity": (),
    "over_trigger": ("data",),
}
_TYPES = {
    "text": "a text",
    "texts": "a text or a list of texts",
    "names": "a list of tool names, or a data file whose tools were seen",
    "count": "a whole number above 0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task as written. Without `data` an identity task takes the built-in questions.

    `seen` are names of tools, `seen_file` a data set whose tools count as seen in training. `place` is where the task is
    written, file and line; empty for a built-in one.
    """

    name: str
    kind: TaskKind
    data: tuple[str, ...] = ()
    format: str | None = None
    steps: Steps = "first"
    seen: tuple[str, ...] = ()
    seen_file: str | None = None
    limit: int | None = None
    names: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    place: str = ""


def load_tasks(
    words: Sequence[str], *, names: Sequence[str] = (), authors: Sequence[str] = (), limit: int | None = None
) -> list[Item]:
    """Return the items of tasks, in order; a word is a file (`.yaml`, `.yml`) or the name of a built-in task.

    `names` and `authors` are what the model was taught, for tasks that do not say it themselves. `limit` caps the items
    of each task: the first ones.

    Raises:
        ConfigError: a file or name is unknown or wrong, listing every problem of a file; two tasks of one name.
        DataError: a row cannot be read; none is left out.
    """
    specs: list[TaskSpec] = []
    for word in words:
        specs += read_task_file(Path(word)) if Path(word).suffix.lower() in (".yaml", ".yml") else [_built_in(word)]
    for one, other in itertools.combinations(specs, 2):
        if one.name == other.name:
            raise ConfigError(
                f"{_place_of(other)}two tasks are named {one.name!r}",
                fix="scores are told apart by task: give them own names",
            )
    items: list[Item] = []
    for spec in specs:
        try:
            made = build_task(spec, names=spec.names or names, authors=spec.authors or authors, limit=limit)
        except ConfigError as error:
            raise ConfigError(f"{_place_of(spec)}{error.message}", fix=error.fix) from error
        if not made:
            raise ConfigError(
                f"{_place_of(spec)}the task {spec.name!r} has no items", fix="give it data that it can measure"
            )
        items += made
    return items


def _place_of(spec: TaskSpec) -> str:
    return f"{spec.place}: " if spec.place else ""


def read_task_file(path: Path) -> list[TaskSpec]:
    """Return the tasks of a file; paths in it are relative to its folder.

    Raises:
        ConfigError: lists everything that is wrong with the file, each with its line.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no task file {path}", fix="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="give a UTF-8 text file") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(
            f"{place}: no valid YAML: {getattr(error, 'problem', None) or error}", fix="correct the file"
        ) from error
    reader = _Reader(path)
    specs = reader.read_root(root)
    if reader.problems:
        lines = [f"{path}:{line}: {text}" for line, text in sorted(reader.problems)]
        text = lines[0] if len(lines) == 1 else f"{len(lines)} problems:\n  " + "\n  ".join(lines)
        raise ConfigError(text, fix="the format is described in docs/evaluation.md")
    return specs


def build_task(spec: TaskSpec, *, names: Sequence[str], authors: Sequence[str], limit: int | None = None) -> list[Item]:
    """Return the items of one task.

    Raises:
        ConfigError, DataError: as `load_tasks`.
    """
    limits = [one for one in (spec.limit, limit) if one is not None]
    items = _make_items(spec, names, authors)
    return items[: min(limits)] if limits else items


def _make_items(spec: TaskSpec, names: Sequence[str], authors: Sequence[str]) -> list[Item]:
    if spec.kind == "choice":
        questions = itertools.chain.from_iterable(read_questions(Path(data)) for data in spec.data)
        return choice_items(list(questions), task=spec.name)
    if spec.kind in ("identity", "over_trigger") and not (names and authors):
        raise ConfigError(
            f"the task {spec.name!r} needs the name and the author that the model was taught",
            fix="give --model_name and --model_author (Chinese, then English, or one for both), or a run that knows them",
        )
    rows = heldout_rows(names=names, authors=authors) if not spec.data else _load_rows(spec)
    if spec.kind == "agent":
        seen = frozenset(spec.seen)
        if spec.seen_file is not None:
            seen |= seen_tools(_load_all(spec.seen_file, None))
        return agent_items(rows, task=spec.name, seen_tools=seen, steps=spec.steps)
    if spec.kind == "nll":
        return nll_items(rows, task=spec.name)
    make = identity_items if spec.kind == "identity" else over_trigger_items
    return make(rows, names=names, authors=authors, task=spec.name)


# --- multiple-choice questions --------------------------------------------------------------------------------------


def read_questions(path: Path) -> Iterator[Question]:
    """Yield the questions of a file: `question`, `choices` (a list) or columns A, B, ..., `answer`, maybe `subject`.

    The answer is an index from 0, a letter, or the text of a choice. Keys may be in any case.

    Raises:
        ConfigError: the file cannot be read.
        DataError: code `gold-unreadable`, or that of a row that cannot be decoded.
    """
    for source, row in read_file(path):
        if isinstance(row, DataError):
            raise _at(row, source)
        try:
            yield _read_question({key.lower(): value for key, value in row.items()}, source)
        except DataError as error:
            raise _at(error, source) from error


def _read_question(row: Mapping[str, Any], source: Source) -> Question:
    question, subject = row.get("question"), row.get("subject")
    if not isinstance(question, str) or not question.strip():
        refuse("there is no text under 'question'", "question")
    choices = row.get("choices")
    if choices is None:
        letters = itertools.takewhile(lambda letter: letter in row, "abcdefghijklmnopqrstuvwxyz")
        choices = [row[letter] for letter in letters]
    if not isinstance(choices, (list, tuple)) or not all(isinstance(one, str) and one.strip() for one in choices):
        refuse("'choices' is no list of texts", "choices")
    if len(choices) < 2 or len(set(choices)) < len(choices):
        refuse("two or more different choices are needed", "choices")
    answer = _find_answer(row.get("answer"), choices)
    if subject is not None and not isinstance(subject, str):
        refuse("'subject' is no text", "subject")
    return Question(question=question, choices=tuple(choices), answer=answer, subject=subject or None, source=source)


def _find_answer(answer: object, choices: Sequence[str]) -> int:
    """Return the index that an answer means; a text that can be read in two ways is refused."""
    meant: set[int] = set()
    if isinstance(answer, int) and not isinstance(answer, bool):
        meant = {answer}
    elif isinstance(answer, str):
        text = answer.strip()
        meant = {index for index, choice in enumerate(choices) if choice.strip() == text}
        if len(text) == 1 and text.isascii() and text.isalpha():
            meant |= {ord(text.upper()) - ord("A")} & set(range(len(choices)))
        elif not meant and re.fullmatch(r"[0-9]{1,3}", text):
            meant = {int(text)}
    if len(meant) != 1 or not 0 <= min(meant) < len(choices):
        refuse(
            f"the answer {answer!r} is not one of the {len(choices)} choices (index from 0, letter or text)", "answer"
        )
    return meant.pop()


def _at(error: DataError, source: Source) -> DataError:
    return DataError(f"{source}: {error.message}", code=error.code, field=error.field, fix=error.fix)


# --- rows -----------------------------------------------------------------------------------------------------------


def _load_rows(spec: TaskSpec) -> tuple[Conversation, ...]:
    return tuple(row for data in spec.data for row in _load_all(data, spec.format))


def _load_all(data: str, format_name: str | None) -> tuple[Conversation, ...]:
    loaded = load_conversations(data, format_name=format_name)
    for bad in loaded.quarantined:
        more = f" ({len(loaded.quarantined)} such rows)" if len(loaded.quarantined) > 1 else ""
        raise DataError(f"{bad.source}: {bad.message}{more}", code=bad.code, field=bad.field, fix=bad.fix)
    return loaded.conversations


def _built_in(word: str) -> TaskSpec:
    if word in BUILT_IN:
        return TaskSpec(name=word, kind="identity")
    near = suggest(word, BUILT_IN)
    raise ConfigError(
        f"there is no task {word!r}: neither a .yaml file nor a built-in task",
        fix=f"did you mean {near}?" if near else f"built-in tasks: {', '.join(BUILT_IN)}; or write a task file",
    )


# --- the file -------------------------------------------------------------------------------------------------------


class _Reader:
    """One pass over the nodes of a task file; what is wrong is collected."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[tuple[int, str]] = []

    def read_root(self, root: yaml.Node | None) -> list[TaskSpec]:
        if not isinstance(root, yaml.MappingNode):
            self._report(root, "a task file is a mapping with 'version: 1' and 'tasks:'")
            return []
        pairs = self._pairs(root, ("version", "tasks"), "the file")
        version = pairs.get("version")
        if not isinstance(version, yaml.ScalarNode) or version.value != str(VERSION):
            self._report(version or root, f"'version: {VERSION}' is needed")
        tasks = pairs.get("tasks")
        if not isinstance(tasks, yaml.SequenceNode) or not tasks.value:
            self._report(tasks or root, "'tasks' is a list of at least one task")
            return []
        return [spec for node in tasks.value if (spec := self._read_task(node)) is not None]

    def _read_task(self, node: yaml.Node) -> TaskSpec | None:
        if not isinstance(node, yaml.MappingNode):
            self._report(node, "a task is a mapping with name, kind and data")
            return None
        before = len(self.problems)
        kind_node = next((value for key, value in node.value if key.value == "kind"), None)
        kind = self._read_choice(kind_node or node, "kind", tuple(_KEYS))
        if kind is None:
            return None
        keys = _KEYS[kind]
        pairs = self._pairs(node, tuple(keys), f"a task of kind {kind}")
        values = {name: self._read_value(name, keys[name], pairs[name]) for name in pairs}
        self.problems += [
            (node.start_mark.line + 1, f"the task lacks '{name}', {_TYPES[keys[name]]}")
            for name in ("name", *_NEEDED[kind])
            if name not in values
        ]
        if "steps" in pairs:
            self._read_choice(pairs["steps"], "steps", ("first", "all"))
        return self._make(kind, values, node.start_mark.line + 1) if len(self.problems) == before else None

    def _make(self, kind: str, values: Mapping[str, Any], line: int) -> TaskSpec:
        seen = values.get("seen_tools", ())
        return TaskSpec(
            name=values["name"],
            kind=cast("TaskKind", kind),
            data=tuple(self._place(text) for text in values.get("data", ())),
            format=values.get("format"),
            steps=values.get("steps", "first"),
            seen=() if isinstance(seen, str) else seen,
            seen_file=self._place(seen) if isinstance(seen, str) else None,
            limit=values.get("limit"),
            names=values.get("model_name", ()),
            authors=values.get("model_author", ()),
            place=f"{self.path}:{line}",
        )

    def _place(self, text: str) -> str:
        """Return a dataset as given, a path joined to the folder of the file."""
        named = re.sub(r"#[0-9]+$", "", text)
        place = self.path.parent / text
        return text if is_hub_id(named) or (named in REGISTRY and not place.exists()) else str(place)

    def _pairs(self, node: yaml.MappingNode, known: Sequence[str], where: str) -> dict[str, yaml.Node]:
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name not in known:
                near = suggest(name, known)
                hint = f"did you mean {near}?" if near else f"it has {', '.join(known)}"
                self._report(key, f"{where} has no {name!r}; {hint}")
            elif name in found:
                self._report(key, f"{name!r} is given twice")
            else:
                found[name] = value
        return found

    def _read_choice(self, node: yaml.Node, name: str, choices: Sequence[str]) -> str | None:
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        if text in choices:
            return text
        near = suggest(text, choices) if text is not None else None
        hint = f"; did you mean {near}?" if near else ""
        self._report(node, f"'{name}' is one of {', '.join(choices)}{hint}")
        return None

    def _read_value(self, name: str, kind: str, node: yaml.Node) -> Any:  # noqa: ANN401 - by the kind of the key
        text = node.value if isinstance(node, yaml.ScalarNode) and node.value.strip() else None
        if text is not None and kind == "count" and re.fullmatch(r"[0-9]{1,9}", text) and int(text) > 0:
            return int(text)
        if text is not None and kind in ("text", "names"):
            return text
        if text is not None and kind == "texts":
            return (text,)
        if isinstance(node, yaml.SequenceNode) and kind in ("texts", "names"):
            texts = [item.value for item in node.value if isinstance(item, yaml.ScalarNode) and item.value.strip()]
            if len(texts) == len(node.value) and (texts or kind == "names"):
                return tuple(texts)
        self._report(node, f"'{name}' is {_TYPES[kind]}")
        return None

    def _report(self, node: yaml.Node | None, message: str) -> None:
        self.problems.append((node.start_mark.line + 1 if node is not None else 1, message))

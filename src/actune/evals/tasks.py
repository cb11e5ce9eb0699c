"""Items of evaluation made from rows: what is asked, in which split it counts, and the gold of every metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from actune.agents.tools.arguments import find_problems
from actune.core.errors import DataError
from actune.core.schema import loosen
from actune.core.types import Conversation, Message, Source, ToolSpec
from actune.evals.answer_metrics import fold, says
from actune.evals.items import Axis, Split
from actune.evals.outputs import is_json

# generate: an output for one assistant message; likelihood: of all trained text of the row; choice: of each choice.
Kind = Literal["generate", "likelihood", "choice"]
Steps = Literal["first", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric of an item with the gold it reads."""

    metric: str
    gold: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing put to a model.

    `id` is unique in its task. The model is shown `conversation.messages[:index]`; `index` is the assistant message
    asked for (of a likelihood item, where all are scored, the first). `choices` are the texts of a choice item.
    """

    id: str
    task: str
    axis: Axis
    split: Split
    cluster: str
    kind: Kind
    conversation: Conversation
    index: int
    measures: tuple[Measure, ...]
    choices: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One multiple-choice question; `answer` is the index of the right choice."""

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str | None
    source: Source


def agent_items(
    rows: Sequence[Conversation], *, task: str, seen_tools: Collection[str], steps: Steps = "first"
) -> list[Item]:
    """Return the steps of agent rows, each with the history of the row: the first of a row, or all.

    A step whose gold calls are all of `seen_tools` is held-in, else held-out; a gold answer is no-tool. With `all`,
    assistant messages that are not trained on are left out.

    Raises:
        DataError: code `gold-unreadable`, naming the row and the call.
    """
    seen = frozenset(seen_tools)
    items = []
    for name, row in name_rows(rows):
        for index in _asked(row, steps):
            message = row.messages[index]
            calls = message.tool_calls
            split: Split = "no-tool"
            if calls:
                split = "held-in" if all(call.name in seen for call in calls) else "held-out"
            items.append(
                Item(
                    id=f"{name}#{index}",
                    task=task,
                    axis="agent",
                    split=split,
                    cluster=row.id or name,
                    kind="generate",
                    conversation=row,
                    index=index,
                    measures=_step_measures(row, index),
                )
            )
    return items


def find_gold_fault(row: Conversation, steps: Steps = "first") -> DataError | None:
    """Return why `agent_items` would refuse a row, None where it would not."""
    try:
        for index in _asked(row, steps):
            read_gold(row, index)
    except DataError as error:
        return error
    return None


def nll_items(rows: Sequence[Conversation], *, task: str) -> list[Item]:
    """Return one item a row: the likelihood of all its trained tokens, of a plain text (format `text`) of its own."""
    return [
        Item(
            id=name,
            task=task,
            axis="general",
            split="all",
            cluster=row.id or name,
            kind="likelihood",
            conversation=row,
            index=next((i for i, message in enumerate(row.messages) if message.role == "assistant"), 0),
            measures=(Measure(metric="general_nll", gold={}),),
        )
        for name, row in name_rows(rows)
    ]


def choice_items(questions: Sequence[Question], *, task: str) -> list[Item]:
    """Return one item a question: the choices are the possible whole answers of the assistant.

    Items of one subject are a cluster; without subjects each is its own.
    """
    items = []
    names = _name_sources([question.source for question in questions])
    for name, one in zip(names, questions, strict=True):
        gold = {"choice": one.answer, "choices": list(one.choices)}
        messages = (
            Message(role="user", content=one.question),
            Message(role="assistant", content=one.choices[one.answer]),
        )
        items.append(
            Item(
                id=name,
                task=task,
                axis="general",
                split="all",
                cluster=name if one.subject is None else f"{task}/{one.subject}",
                kind="choice",
                conversation=Conversation(messages=messages, source=one.source),
                index=1,
                measures=tuple(Measure(metric=m, gold=gold) for m in ("general_accuracy", "general_accuracy_norm")),
                choices=one.choices,
            )
        )
    return items


def identity_items(
    rows: Sequence[Conversation], *, names: Sequence[str], authors: Sequence[str], task: str
) -> list[Item]:
    """Return one item a question about the model; what must be said is what the gold answer says.

    Raises:
        DataError: code `gold-unreadable` for an answer that holds neither a name nor an author.
    """
    return [
        Item(
            id=name,
            task=task,
            axis="identity",
            split="all",
            cluster=row.id or name,
            kind="generate",
            conversation=row,
            index=index,
            measures=_identity_measures(row, index, names, authors),
        )
        for name, row in name_rows(rows)
        for index in _asked(row, "first")
    ]


def over_trigger_items(
    rows: Sequence[Conversation], *, names: Sequence[str], authors: Sequence[str], task: str
) -> list[Item]:
    """Return one item an ordinary row; rows whose prompt or gold answer holds a taught name are none (in any case)."""
    taught = list(dict.fromkeys([*names, *authors]))
    items = []
    for name, row in name_rows(rows):
        for index in _asked(row, "first"):
            shown = fold("\n".join(message.content for message in row.messages[: index + 1]))
            if any(fold(one).strip() in shown for one in taught):
                continue
            gold = {"answer": row.messages[index].content, "names": taught}
            items.append(
                Item(
                    id=f"{name}#{index}",
                    task=task,
                    axis="identity",
                    split="all",
                    cluster=row.id or name,
                    kind="generate",
                    conversation=row,
                    index=index,
                    measures=(Measure(metric="no_over_trigger", gold=gold),),
                )
            )
    return items


def seen_tools(rows: Sequence[Conversation]) -> frozenset[str]:
    """Return the names of all tools that rows offer or call."""
    offered = {tool.name for row in rows for tool in row.tools}
    called = {call.name for row in rows for message in row.messages for call in message.tool_calls}
    return frozenset(offered | called)


def read_gold(row: Conversation, index: int) -> dict[str, Any]:
    """Return the gold of an assistant message: `{"calls": [...]}` with arguments as objects, or `{"answer": text}`.

    Raises:
        DataError: code `gold-unreadable`.
    """
    message = row.messages[index]
    if not message.tool_calls:
        return {"answer": message.content}
    calls = []
    for number, call in enumerate(message.tool_calls):
        try:
            arguments = call.parse_arguments()
            fault = None if is_json(arguments) else "a number in them is not finite"
        except DataError as error:
            arguments, fault = {}, error.message
        if fault is not None:
            raise DataError(
                f"{row.source}: the gold call of {call.name!r} cannot be read: {fault}",
                code="gold-unreadable",
                field=f"messages[{index}].tool_calls[{number}].arguments",
                fix="correct the arguments in the row, or take the row out of the task's data",
            )
        calls.append({"name": call.name, "arguments": arguments})
    return {"calls": calls}


def name_rows(rows: Sequence[Conversation]) -> Iterator[tuple[str, Conversation]]:
    """Yield (name, row): `file:line` with the bare file name where that is unique; `~2` marks a row met again."""
    return zip(_name_sources([row.source for row in rows]), rows, strict=True)


def _name_sources(sources: Sequence[Source]) -> list[str]:
    files = {source.file for source in sources}
    bare = Counter(PurePath(file).name for file in files)
    short = {file: PurePath(file).name if bare[PurePath(file).name] == 1 else file for file in files}
    met: Counter[str] = Counter()
    names = []
    for source in sources:
        name = f"{short[source.file]}:{source.line}"
        met[name] += 1
        names.append(name if met[name] == 1 else f"{name}~{met[name]}")
    return names


def _asked(row: Conversation, steps: Steps) -> list[int]:
    """Return the assistant messages to ask for."""
    spoken = [index for index, message in enumerate(row.messages) if message.role == "assistant"]
    if not spoken:
        raise DataError(
            f"{row.source}: there is no assistant message to ask for",
            code="gold-unreadable",
            field="messages",
            fix="add the answer, or take the row out of the task's data",
        )
    if steps == "first":
        return spoken[:1]
    return [index for index in spoken if row.messages[index].train and row.messages[index].weight > 0]


def _step_measures(row: Conversation, index: int) -> tuple[Measure, ...]:
    gold = read_gold(row, index)
    message = row.messages[index]
    text = message.source_text if message.source_text is not None else f"{message.reasoning}\n{message.content}"
    metrics = {"strict_call": gold, "decision": gold, "format_valid": gold}
    metrics["no_invented_observation"] = gold | {"text": text}
    if "answer" in gold:
        metrics |= {"no_false_call": gold, "answer_rouge_l": gold}
        return tuple(Measure(metric=metric, gold=value) for metric, value in metrics.items())
    metrics |= {"tool_name": gold, "key_f1": gold}
    offered = {tool.name: tool for tool in row.tools}
    if all(call["name"] in offered for call in gold["calls"]):
        metrics["no_hallucinated_tool"] = gold | {"tools": list(offered)}
        schemas = {name: _schema(tool) for name, tool in offered.items()}
        # A gold call that breaks the schema says that the schema is wrong: no model is judged by it.
        if is_json(schemas) and all(
            not find_problems(_bare(c["name"], schemas), c["arguments"]) for c in gold["calls"]
        ):
            metrics["schema_valid"] = gold | {"tools": schemas}
    return tuple(Measure(metric=metric, gold=value) for metric, value in metrics.items())


def _schema(tool: ToolSpec) -> dict[str, Any]:
    return loosen(tool.parameters) if tool.parameter_list is not None else dict(tool.parameters)


def _bare(name: str, schemas: Mapping[str, Mapping[str, Any]]) -> ToolSpec:
    return ToolSpec(name=name, parameters=schemas[name])


def _identity_measures(
    row: Conversation, index: int, names: Sequence[str], authors: Sequence[str]
) -> tuple[Measure, ...]:
    answer = row.messages[index].content
    question = "\n".join(message.content for message in row.messages[:index])
    # The longest first: of two names, one of which is a part of the other, the answer holds the longer one.
    name = next((one for one in sorted(names, key=len, reverse=True) if says(answer, one)), None)
    author = next((one for one in sorted(authors, key=len, reverse=True) if says(answer, one)), None)
    gold: dict[str, Any] = {"question": question, "answer": answer}
    gold |= {} if name is None else {"name": name}
    gold |= {} if author is None else {"author": author}
    if name is None and author is None:
        raise DataError(
            f"{row.source}: the gold answer holds neither the model's name nor its author",
            code="gold-unreadable",
            field=f"messages[{index}].content",
            fix="give the names that the rows teach with --model_name and --model_author",
        )
    metrics = ["identity_hit", "no_old_identity"]
    metrics += [] if name is None else ["name_hit"]
    metrics += [] if author is None else ["author_hit"]
    return tuple(Measure(metric=metric, gold=gold) for metric in metrics)

"""Every template x every conversation: is each turn exactly what `apply_chat_template` asks for, or refused with a reason?

    python benchmarks/conformance.py --tokenizer DIR --templates DIR [--own DIR ...] [--markdown OUT] [--json OUT]

The judge knows nothing of actune's renderer: prompt and target of each assistant turn come from
`tokenizer.apply_chat_template` alone (arguments as dicts, as JSON text where that shows them better), and every word of
the conversation is looked for in what is trained. A turn is

- exact: prompt and target ids are the judge's, loss weight lies on the target only, the target is read back as the
  message it was written from, and each part of it that can be weighed holds what belongs there of the message;
- refused: actune gives a reason; the table says which and how often;
- WRONG: anything else. The exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conversations import Row, rows
from transformers import AutoTokenizer

from actune.core import api_list, react
from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Source
from actune.formats import registry
from actune.render.chat import ChatRenderer
from actune.render.encoder import Encoder
from actune.render.token_places import TokenPlaces, move_to
from actune.render.tokenizer import ChatTemplates, TextTokenizer, load_templates, strip_marks

LOST = frozenset({
    "tool-lost", "tool-schema-lost", "calls-lost", "call-lost", "arguments-lost", "arguments-escaped", "reasoning-lost",
    "content-lost", "system-lost", "user-lost", "observation-lost", "history-lost", "template-refuses",
})  # fmt: skip
"""Reasons that say: this template cannot express the conversation."""


@dataclass(slots=True)
class Case:
    """One template with a tokenizer and what came of every conversation."""

    name: str
    tokenizer: str
    exact: int = 0
    turns: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    detail: dict[str, str] = field(default_factory=dict)
    react: dict[str, str] = field(default_factory=dict)


class Judge:
    """Prompt and target of a turn from transformers alone."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = template

    def render(self, row: Row, count: int, *, prompt: bool, form: str) -> str:
        """Return the text as it is without neutralised control tokens."""
        return self._apply(row, count, form, add_generation_prompt=prompt, tokenize=False)

    def prompt_ids(self, row: Row, count: int, *, form: str, prompt: bool = True) -> list[int]:
        """Return the ids of a prompt, control tokens of users and tools neutralised."""
        return self._apply(row, count, form, add_generation_prompt=prompt, tokenize=True, sanitize_control_tokens=True)[
            "input_ids"
        ]

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, no special tokens added."""
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _apply(self, row: Row, count: int, form: str, **options: Any) -> Any:
        messages = [self._message(message, form) for message in row["messages"][:count]]
        return self._tokenizer.apply_chat_template(
            messages, tools=row.get("tools"), chat_template=self._template, **options
        )

    @staticmethod
    def _message(message: Row, form: str) -> Row:
        message = copy.deepcopy(message)
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(block["text"] for block in content)
        message["content"] = content or ""
        if "reasoning_content" in message:  # earlier versions of transformers do not give templates both names
            message["thinking"] = message["reasoning_content"]
        for call in message.get("tool_calls", ()):
            function = call["function"]
            value = function["arguments"]
            value = json.loads(value) if isinstance(value, str) else value
            function["arguments"] = json.dumps(value, ensure_ascii=False) if form == "string" else value
        return message


def words_of(value: Any) -> Iterator[str]:
    """Yield the words of a JSON value that any way to write it shows: letters and digits between other signs."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from words_of(key)
            yield from words_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from words_of(item)
    elif isinstance(value, bool) or value is None:
        return
    else:
        yield from "".join(sign if sign.isalnum() else " " for sign in str(value)).split()


def lost_words(message: Row, text: str) -> list[str]:
    """Return the words of a message that a text lacks."""
    wanted = list(words_of(message.get("reasoning_content") or ""))
    content = message.get("content") or ""
    wanted += words_of(content if isinstance(content, str) else [block["text"] for block in content])
    for call in message.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        wanted += [call["function"]["name"], *words_of(arguments)]
    lacking = [word for word in dict.fromkeys(wanted) if word not in text]
    # As often as it is said: two calls of one tool name it twice.
    counts = Counter(wanted)
    return lacking + [word for word, count in counts.items() if word in text and text.count(word) < count]


def targets_of(tree: Any) -> Iterator[tuple[list[int], int, float]]:
    """Yield (ids seen, id to predict, weight) for each target of a tree."""
    end = tree.end.tolist()
    ids = tree.input_ids.tolist()
    for place, target, weight in zip(
        tree.target_positions.tolist(), tree.target_ids.tolist(), tree.target_weights.tolist(), strict=True
    ):
        yield [ids[k] for k in range(place + 1) if place < end[k]], target, weight


def judge_row(encoder: Encoder, judge: Judge, conversation: Conversation, row: Row) -> str:
    """Return `exact`, `refused CODE` or what is wrong."""
    try:
        turns = encoder.encode_turns(conversation)
        tree = encoder.encode(conversation)
    except (DataError, RenderError) as error:
        return f"refused {error.code}"
    stops = encoder.renderer.profile.stops
    indices = [at for at, message in enumerate(row["messages"]) if message["role"] == "assistant"]
    if [turn.turn.index for turn in turns] != indices:
        return "WRONG: turns"
    expected: set[tuple[tuple[int, ...], int]] = set()
    for turn in turns:
        fault = judge_forms(turn, row, judge, stops) or judge_words(turn, turns, row)
        fault = fault or judge_reading(turn, encoder, conversation, stops) or judge_parts(turn, encoder, conversation)
        if fault:
            return f"WRONG: turn {turn.turn.index}: {fault}"
        for at in range(turn.start, len(turn.ids)):
            expected.add((tuple(turn.ids[:at]), turn.ids[at]))
    found = {(tuple(seen), target) for seen, target, weight in targets_of(tree) if weight > 0}
    return "exact" if found == expected else "WRONG: targets"


def judge_forms(turn: Any, row: Row, judge: Judge, stops: tuple[str, ...]) -> str:
    """Return "" if a turn is what transformers renders with one of the two forms of arguments."""
    fault = "no form of arguments fits"
    for form in ("dict", "string"):
        with contextlib.suppress(Exception):  # a template may refuse one form in any way
            fault = judge_turn(turn, row, turn.turn.index, judge, form, stops)
        if fault == "":
            break
    return fault


def judge_words(turn: Any, turns: Sequence[Any], row: Row) -> str:
    """Return "" if the words of a message are in its target, and all but its reasoning in the prompts after it."""
    message = row["messages"][turn.turn.index]
    if lacking := lost_words(message, turn.turn.completion):
        return f"lost without a word: {lacking[:3]}"
    for later in turns:
        gone = lost_words({**message, "reasoning_content": ""}, later.turn.prompt)
        if later.turn.index > turn.turn.index and gone:
            return f"the prompt of turn {later.turn.index} lacks {gone[:3]}"
    return ""


def judge_reading(turn: Any, encoder: Encoder, conversation: Conversation, stops: tuple[str, ...]) -> str:
    """Return "" if a target is read back as its message."""
    output = turn.turn.completion
    for stop in stops:
        output = output.removesuffix(stop)
    read = encoder.dialect_of(conversation).parse(output, conversation.tools)
    fault = differs(read, conversation.messages[turn.turn.index])
    return "" if fault is None else f"read back otherwise: {fault}"


def judge_parts(turn: Any, encoder: Encoder, conversation: Conversation) -> str:
    """Return "" if the parts of a target are all of it, in order, and hold what belongs there of its message."""
    text, begins = TokenPlaces(encoder.renderer.tokenizer).locate(turn.ids, turn.start)
    begins = move_to(text, begins, turn.turn.completion)
    if begins is None or begins != sorted(begins):
        return "tokens are not found in the target"
    text = turn.turn.completion
    spans = encoder.dialect_of(conversation).find_parts(conversation, turn.turn.index, text)
    if "".join(text[span.start : span.end] for span in spans) != text or spans[-1].part != "stop":
        return "parts do not make up the target"
    message = conversation.messages[turn.turn.index]
    kept: dict[str, list[str]] = defaultdict(list)
    for span in spans:
        kept[span.part].append(text[span.start : span.end])
    if message.reasoning.strip() not in "\n".join(kept["thought"]):
        return "the thought lacks the reasoning"
    if message.content.strip() not in "\n".join(kept["thought" if message.tool_calls else "final_answer"]):
        return "the text is in another part"
    inputs = [call for call in message.tool_calls if call.parse_arguments()]
    if len(kept["action_input"]) < len(inputs) or bool(kept["action"]) != bool(message.tool_calls):
        return "calls are in another part"
    for call, shown in zip(inputs, kept["action_input"], strict=False):
        if lacking := [word for word in words_of(call.parse_arguments()) if word not in shown]:
            return f"the action input lacks {lacking[:3]}"
    named = "\n".join(kept["action"])
    return "" if all(call.name in named for call in message.tool_calls) else "a name is in another part"


def differs(read: Any, want: Any) -> str | None:
    """Return what differs between two messages; blanks at the edges of texts and nulls at the top of arguments do not."""
    for name in ("reasoning", "content"):
        if getattr(read, name).strip() != getattr(want, name).strip():
            return f"{name} {getattr(read, name)!r}"
    calls = [
        [(c.name, {k: v for k, v in c.parse_arguments().items() if v is not None}) for c in message.tool_calls]
        for message in (read, want)
    ]
    return None if calls[0] == calls[1] else f"calls {calls[0]}"


def judge_turn(turn: Any, row: Row, index: int, judge: Judge, form: str, stops: tuple[str, ...]) -> str:
    """Return "" if a turn is exact, else what differs."""
    prompt = judge.render(row, index, prompt=True, form=form)
    full = judge.render(row, index + 1, prompt=False, form=form)
    prompt_ids = judge.prompt_ids(row, index, form=form)
    if turn.ids[: turn.start] != prompt_ids:
        return "prompt ids"
    if not full.startswith(prompt):
        return judge_rewritten(turn.turn.completion, prompt, full, row["messages"][index], stops)
    target = full[len(prompt) :]
    ends = [target.index(stop) + len(stop) for stop in stops if stop in target]
    if ends:
        target = target[: min(ends)]
    elif not turn.turn.completion.startswith(target):
        return "target"
    else:
        target = turn.turn.completion  # a stop was added
    if turn.turn.completion != target:
        return "target"
    # Behind a prompt that ends in a token of its own the ids of the two texts do not depend on each other.
    whole, alone = judge.ids(prompt + target), judge.ids(prompt)
    if whole[: len(alone)] == alone and turn.ids[turn.start :] != whole[len(alone) :]:
        return "target ids"
    return ""


def judge_rewritten(completion: str, prompt: str, full: str, message: Row, stops: tuple[str, ...]) -> str:
    """Judge a target whose prompt the template writes otherwise once the answer is there: the text itself must stand.

    It has to be what the full text ends in, up to scaffolding without words of the message, behind a header that the
    prompt has too.
    """
    place = full.rfind(completion)
    if place < 0:
        stop = next((stop for stop in stops if completion.endswith(stop)), "")
        completion = completion.removesuffix(stop)
        place = len(full) - len(completion) if full.endswith(completion) else -1
    if place < 0:
        return "the target is not in the full text"
    rest, head = full[place + len(completion) :], full[:place]
    if any(
        word in rest for word in words_of([message.get("content"), message.get("reasoning_content")]) if len(word) > 3
    ):
        return "the target is not all of the answer"
    last = head.rstrip().splitlines()[-1][-12:]
    return "" if last and last in prompt[-80:] else f"the target stands behind {head[-40:]!r}"


def judge_react(encoder: Encoder, judge: Judge, conversation: Conversation) -> str:
    """Return `exact`, `refused CODE` or what is wrong of a row in ReAct text.

    The chat of a prompt is plain: the API list in the system text, each finished turn of the assistant one text, the
    steps of the turn that goes on behind the generation prompt. A template without system texts has it in the question.
    """
    try:
        turns = encoder.encode_turns(conversation)
    except (DataError, RenderError) as error:
        return f"refused {error.code}"
    ending = encoder.renderer.profile.answer_end
    system = api_list.write_system("", conversation.tools, "en")
    for turn in turns:
        chat: list[Row] = [{"role": "system", "content": system}]
        inside: list[str] = []
        for message in conversation.messages[: turn.turn.index]:
            if message.role == "assistant":
                inside.append(react.write_step(message))
            elif message.role == "tool":
                inside.append(f" {message.content}\n")
            elif message.role == "system":
                chat[0]["content"] = f"{message.content}\n\n{system}"
            else:
                chat += [{"role": "assistant", "content": "".join(inside)}] if inside else []
                chat, inside = [*chat, {"role": "user", "content": message.content}], []
        folded = [{"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}, *chat[2:]]
        prompts = []
        for messages in (chat, folded):
            with contextlib.suppress(Exception):  # a template may refuse a system text in any way
                text = judge.render({"messages": messages}, len(messages), prompt=True, form="dict")
                prompts += [text] if chat[0]["content"] in text or messages is folded else []
        if not prompts or strip_marks(turn.turn.prompt) != prompts[0] + "".join(inside):
            return f"WRONG: turn {turn.turn.index}: the prompt"
        step = conversation.messages[turn.turn.index]
        target = react.write_step(step) + ("" if step.tool_calls else ending)
        whole, alone = judge.ids(turn.turn.prompt + target), judge.ids(turn.turn.prompt)
        differs_in_ids = whole[: len(alone)] == alone and turn.ids[turn.start :] != whole[len(alone) :]
        marked = strip_marks(turn.turn.prompt) != turn.turn.prompt
        if turn.turn.completion != target or (differs_in_ids and not marked):
            return f"WRONG: turn {turn.turn.index}: the target"
    return "exact"


def judge_case(name: str, text: TextTokenizer, templates: ChatTemplates, fast: Any) -> Case:
    """Put every conversation to one template."""
    case = Case(name, text.folder.name if text.folder is not None else "")
    everything = rows()
    if "sanitize_control_tokens" not in inspect.signature(fast.apply_chat_template).parameters:
        # An earlier transformers cannot neutralise them itself, so there is nothing to compare with.
        everything = {title: row for title, row in everything.items() if "control tokens" not in title}
    case.turns = sum(m["role"] == "assistant" for row in everything.values() for m in row["messages"])
    try:
        renderer = ChatRenderer(text, templates)
    except RenderError as error:
        case.refused[f"template: {error.code}"] = case.turns
        return case
    encoder, in_react = Encoder(renderer, dialect="chat"), Encoder(renderer, dialect="react")
    for title, row in everything.items():
        count = sum(m["role"] == "assistant" for m in row["messages"])
        conversation = registry.get("openai").read(row, Source(file="conversations", line=1))
        judge = Judge(fast, templates.tools if row.get("tools") else templates.plain)
        if row.get("tools"):
            plain = Judge(fast, templates.plain)
            case.react[title] = judge_react(in_react, plain, conversation)
        outcome = judge_row(encoder, judge, conversation, row)
        case.detail[title] = outcome
        if outcome == "exact":
            case.exact += count
        elif outcome.startswith("refused "):
            case.refused[outcome.removeprefix("refused ")] += count
        else:
            case.wrong.append(f"{title}: {outcome}")
    return case


def write_markdown(cases: list[Case]) -> str:
    lines = [
        "| template | tokenizer | turns | exact | cannot express | refused for another reason |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        lost = {code: n for code, n in case.refused.items() if code in LOST}
        other = {code: n for code, n in case.refused.items() if code not in LOST}
        shown = [", ".join(f"{code} {n}" for code, n in sorted(part.items())) for part in (lost, other)]
        lines.append(f"| {case.name} | {case.tokenizer} | {case.turns} | {case.exact} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer folder for the templates")
    parser.add_argument("--templates", type=Path, help="a folder of *.jinja files")
    parser.add_argument(
        "--own", type=Path, nargs="*", default=[], help="tokenizer folders judged with their own template"
    )
    parser.add_argument("--only", default="", help="templates whose name contains this")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases: list[Case] = []
    if options.tokenizer and options.templates:
        cases += judge_templates(options.tokenizer, options.templates, options.only)
    cases += judge_own(options.own)
    return report(cases, options.markdown, options.json)


def find_templates(folder: Path, only: str) -> Iterator[tuple[str, ChatTemplates]]:
    """Yield the templates of a folder whose name contains a text."""
    for file in sorted(folder.glob("*.jinja")):
        if only in file.name:
            template = file.read_text(encoding="utf-8")
            yield file.stem, ChatTemplates(plain=template, tools=template, origin=file.name)


def find_renderers(tokenizer: Path, folder: Path, only: str) -> Iterator[tuple[str, ChatRenderer]]:
    """Yield a renderer of each template that can be used at all."""
    text = TextTokenizer.from_folder(tokenizer)
    for name, templates in find_templates(folder, only):
        with contextlib.suppress(RenderError):
            yield name, ChatRenderer(text, templates)


def judge_templates(tokenizer: Path, folder: Path, only: str) -> list[Case]:
    """Judge the templates of a folder with one tokenizer."""
    fast, text = AutoTokenizer.from_pretrained(tokenizer), TextTokenizer.from_folder(tokenizer)
    return [judge_case(name, text, templates, fast) for name, templates in find_templates(folder, only)]


def judge_own(folders: Sequence[Path]) -> list[Case]:
    """Judge tokenizer folders with their own templates."""
    cases = []
    for folder in folders:
        fast, text = AutoTokenizer.from_pretrained(folder), TextTokenizer.from_folder(folder)
        cases.append(judge_case("its own", text, load_templates(folder, text), fast))
    return cases


def report(cases: list[Case], markdown: Path | None, details: Path | None) -> int:
    """Print and write what was found; returns the exit code."""
    total: Counter[str] = Counter()
    by_title: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        total.update(turns=case.turns, exact=case.exact, refused=sum(case.refused.values()), wrong=len(case.wrong))
        for title, outcome in case.detail.items():
            by_title[title][outcome.split(":", 1)[0]] += 1
        for line in case.wrong:
            sys.stdout.write(f"{case.name} ({case.tokenizer}): {line}\n")
        for title, outcome in case.react.items():
            if outcome.startswith("WRONG"):
                case.wrong.append(title)
                total["wrong"] += 1
                sys.stdout.write(f"{case.name} ({case.tokenizer}), ReAct: {title}: {outcome}\n")
    outcomes_in_react = Counter(outcome for case in cases for outcome in case.react.values())
    sys.stdout.write(f"rows in ReAct text: {dict(outcomes_in_react)}\n")
    for title, outcomes in by_title.items():
        sys.stdout.write(f"{title}: " + ", ".join(f"{name} {count}" for name, count in outcomes.most_common()) + "\n")
    sys.stdout.write(f"{len(cases)} templates: {dict(total)}\n")
    if markdown:
        markdown.write_text(write_markdown(cases), encoding="utf-8")
    if details:
        details.write_text(
            json.dumps({c.name + " " + c.tokenizer: c.detail for c in cases}, indent=1), encoding="utf-8"
        )
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

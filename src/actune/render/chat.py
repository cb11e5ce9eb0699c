"""Messages through the model's own chat template, and what probing finds out about that template."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from actune.core.conversion import new_call_id
from actune.core.errors import DataError, RenderError
from actune.core.types import Message, ToolCall, ToolSpec
from actune.render.stops import Ending, find_call_stop, find_ending
from actune.render.template import ChatTemplate
from actune.render.tokenizer import ChatTemplates, TextTokenizer, load_templates, mark_control_tokens

Arguments = Literal["dict", "string"]
_KEPT = 1024
Opening = Literal["", "blank", "empty-reasoning", "reasoning", "unknown"]

# What a generation prompt may write after the header of an answer: a marker, or two with a word between them.
_MARKER = r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])"
_OPENED = re.compile(rf"\s*{_MARKER}\s*")
_EMPTY = re.compile(rf"\s*{_MARKER}\s*\w*\s*{_MARKER}\s*")
CLOSED_REASONING = re.compile(rf"{_MARKER}\s*\w*\s*{_MARKER}\s*$")
_CUT_MARKER = re.compile(r"[<\[][^<>\[\]\s]*$")

_USER, _ANSWER, _SYSTEM, _FOLLOW = "probe-question", "probe-answer", "probe-system", "probe-second-question"
_TOOL = ToolSpec(
    name="probe_tool",
    description="probe-description",
    parameters={"type": "object", "properties": {"probe_key": {"type": "string", "description": "probe-parameter"}}},
)
# Some templates insist on ids of nine alphanumeric characters; others do not read them.
_CALL = ToolCall(name="probe_tool", arguments='{"probe_key": "probe-value"}', id="probe0001")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a template does, found by rendering probes.

    `answer_end` is the text after an assistant's content up to and including the stop; `stops` are the stop texts that
    a completion may be cut after; `stop_added` says that the template has none and the end-of-sequence token is put
    there. `arguments` is the form of tool arguments it renders faithfully, None when it cannot show calls. `call_ids` says
    that it refuses calls without an id.

    A generation prompt is `header`, which every answer of the history has as well, and perhaps `opening`, which an answer
    without reasoning has not: blanks, an empty reasoning block, the beginning of one (`reasoning`), or something else. Of
    reasoning that the prompt begins, `closing` is what ends it.
    """

    answer_end: str
    stops: tuple[str, ...]
    stop_added: bool
    system: bool
    tools: bool
    arguments: Arguments | None
    reason: str | None
    call_ids: bool = False
    header: str = ""
    opening: str = ""
    opens: Opening = ""
    closing: str = ""


class ChatRenderer:
    """Renders messages with one model's templates; pure apart from the clock, which `now` freezes."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        templates: ChatTemplates,
        *,
        now: datetime.date | None = None,
        history_reasoning: Literal["as-data", "drop"] = "as-data",
        raw_control_tokens: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        """Compile the templates and probe them; `variables` are given to templates besides their own.

        Raises:
            RenderError: when a template cannot render even a question and an answer.
        """
        self.tokenizer = tokenizer
        self.templates = templates
        given = {**tokenizer.named_tokens, **(variables or {})}
        self._plain = ChatTemplate(templates.plain, variables=given, now=now)
        self._tools = ChatTemplate(templates.tools, variables=given, now=now)
        self._drop_reasoning = history_reasoning == "drop"
        literals = self._plain.literals + "\0" + self._tools.literals
        self._controls = None if raw_control_tokens else tokenizer.control_pattern(literals)
        self._arguments: Arguments = "dict"
        self._given: tuple[ToolSpec, ...] = ()  # tools of the probes about plain text
        self._call_ids = False
        # What was made of messages and tools, by their identity: a row is rendered twice a turn. Forgotten by the row.
        self._dicts: dict[tuple[int, bool], tuple[Message, dict[str, Any]]] = {}
        self._specs: tuple[Sequence[ToolSpec], list[dict[str, Any]]] = ((), [])
        self.profile = self._probe()
        self._arguments = self.profile.arguments or "dict"
        self._dicts.clear()
        self._call_ids = self.profile.call_ids

    def notices(self) -> list[str]:
        """Say what a user should know about the template before training on it."""
        found = []
        if self.templates.is_default:
            found.append(f"the model has no chat template; used is the {self.templates.origin}")
        loose = [stop for stop in self.profile.stops if self.tokenizer.token_id(stop) is None]
        if loose:
            shown = ", ".join(map(repr, loose))
            found.append(
                f"the template ends answers in {shown}, which is no single token; servers have to stop on text"
            )
        if self.profile.stop_added:
            found.append(f"the template does not end an answer; {self.profile.stops[0]!r} is put there")
        return found

    def mark(self, text: str) -> str:
        """Return text from outside (user, tool) with its control tokens neutralised."""
        return text if self._controls is None else mark_control_tokens(text, self._controls)

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), prompt: bool) -> str:
        """Return the text of messages; with `prompt`, ready for the next answer.

        Control tokens in every role but the assistant's are marked (see `TextTokenizer.encode`).

        Raises:
            RenderError: when the template refuses the messages.
        """
        template = self._tools if tools else self._plain
        # A template sees the reasoning of an answer that is being rendered as target, not the one of the history.
        if self._call_ids and tools:
            messages = fill_ids(messages)
        last = len(messages) if prompt else len(messages) - 1
        dicts = [self._message(m, history=index < last) for index, m in enumerate(messages)]
        return template.render(dicts, tools=self._describe(tools), prompt=prompt)

    def _describe(self, tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
        if self._specs[0] is not tools:
            self._specs = (tools, [self._mark_all(tool.describe()) for tool in tools])
        return self._specs[1]

    def continue_prompt(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], prompt: str, rewritten: bool = True
    ) -> Iterator[tuple[str, bool]]:
        """Yield what may follow a prompt when the last of `messages` is the answer to it, and whether that is certain.

        It is what the text with the answer has beyond the prompt. Where the template writes the prompt differently once
        the answer is there, it is what follows the answer's header: the generation prompt may write more after the
        header than an answer of the history has (an empty reasoning block), or, unless `rewritten` is False, the
        template may rewrite the history (it strips reasoning, moves the system text), which leaves the answer itself as
        it is. Several places can hold the header; which of them is right shows when the text is read back.

        Raises:
            RenderError: when the template refuses the messages.
        """
        text = self.render(messages, tools=tools, prompt=False)
        if text.startswith(prompt):
            yield text[len(prompt) :], True
            return
        profile = self.profile
        header, reasons = profile.header, bool(messages[-1].reasoning)
        if not header.strip() or not prompt.endswith(header + profile.opening):
            return
        if profile.opens == "unknown" or (profile.opens == "empty-reasoning" and reasons):
            return
        before = prompt.removesuffix(profile.opening)
        places = [len(before)] if text.startswith(before) else []
        if rewritten:
            places += [found.end() for found in re.finditer(re.escape(header), text)][::-1]
        for place in places:
            # Where the prompt begins reasoning, an answer without any has to end it.
            if reasons or text[place:].lstrip().startswith(profile.closing):
                yield text[place:], False

    def _message(self, message: Message, *, history: bool) -> dict[str, Any]:
        key = (id(message), history and self._drop_reasoning)
        kept = self._dicts.get(key)
        if kept is not None and kept[0] is message:
            return kept[1]
        if len(self._dicts) >= _KEPT:
            self._dicts.clear()
        made = self._make_dict(message, history=history)
        self._dicts[key] = (message, made)
        return made

    def _make_dict(self, message: Message, *, history: bool) -> dict[str, Any]:
        if message.role != "assistant":
            result: dict[str, Any] = {"role": message.role, "content": self.mark(message.content)}
            if message.tool_call_id is not None:
                result["tool_call_id"] = self.mark(message.tool_call_id)
            if message.name is not None:
                result["name"] = self.mark(message.name)
            return result
        result = {"role": "assistant", "content": message.content}
        if message.reasoning and not (history and self._drop_reasoning):
            # Both names, as transformers gives them to templates.
            result |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
        if message.tool_calls:
            result["tool_calls"] = [self._call(call) for call in message.tool_calls]
        return result

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments: Any = call.parse_arguments()
        if self._arguments == "string":
            arguments = json.dumps(arguments, ensure_ascii=False)
        entry: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
        return {"id": call.id, **entry} if call.id is not None else entry

    def _mark_all(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, str):
            return self.mark(value)
        if isinstance(value, Mapping):
            return {key: self._mark_all(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._mark_all(item) for item in value]
        return value

    # --- probes ---

    def _probe(self) -> Profile:
        user, answer = Message(role="user", content=_USER), Message(role="assistant", content=_ANSWER)
        try:
            text = self.render([user, answer], prompt=False)
        except RenderError:  # some templates are made for chats with tools only
            self._given = (_TOOL,)
            text = self.render([user, answer], tools=self._given, prompt=False)
        if _USER not in text or _ANSWER not in text:
            raise RenderError(
                f"the chat template ({self.templates.origin}) loses the question or the answer of a plain chat",
                code="template-loses-text",
                fix="give another template with --chat_template FILE",
            )
        ending = self._find_ending(user, answer, text)
        arguments, tools, call_stop, reason = self._probe_tools(user, ending)
        header, opening, opens, closing = self._probe_opening(user)
        return Profile(
            answer_end=ending.text,
            stops=tuple(dict.fromkeys([ending.stop, call_stop] if call_stop else [ending.stop])),
            stop_added=ending.added,
            system=self._probe_system(user),
            tools=tools,
            arguments=arguments,
            reason=reason,
            call_ids=arguments is not None and self._probe_ids(user, arguments),
            header=header,
            opening=opening,
            opens=opens,
            closing=closing,
        )

    def _probe_ids(self, user: Message, form: Arguments) -> bool:
        self._arguments = form
        self._dicts.clear()
        messages = [user, Message(role="assistant", tool_calls=(replace(_CALL, id=None),))]
        try:
            self.render(messages, tools=[_TOOL], prompt=False)
        except RenderError:
            return True
        return False

    def _probe_opening(self, user: Message) -> tuple[str, str, Opening, str]:
        """Return `header`, `opening`, `opens` and `closing` of the profile."""
        base = self.render([user], tools=self._given, prompt=False)
        prompt = self.render([user], tools=self._given, prompt=True)
        if not prompt.startswith(base):
            return "", "", "", ""
        if prompt == base:  # the header of an answer stands there in any case
            base = prompt[: prompt.rfind(_USER) + len(_USER)]
        added = prompt[len(base) :]
        texts = []
        for content in (_ANSWER, "Other words", "42"):
            messages = [user, Message(role="assistant", content=content)]
            text = self.render(messages, tools=self._given, prompt=False)
            if not text.startswith(base):
                return added, "", "", ""
            texts.append(text[len(base) :])
        header = _common_prefix(added, *texts)
        if header == added:
            return added, "", "", ""
        header = _CUT_MARKER.sub("", header)  # two markers may begin with the same letters
        opening = added[len(header) :]
        if not opening.strip():
            return header, opening, "blank", ""
        if _EMPTY.fullmatch(opening):
            return header, opening, "empty-reasoning", ""
        thinking = [user, Message(role="assistant", content=_ANSWER, reasoning=_SYSTEM)]
        with contextlib.suppress(RenderError):
            text = self.render(thinking, tools=self._given, prompt=False)
            _, thought, rest = text[len(prompt) :].partition(_SYSTEM)
            closing = rest.partition(_ANSWER)[0].strip()
            if _OPENED.fullmatch(opening) and text.startswith(prompt) and thought and closing:
                return header, opening, "reasoning", closing
        return header, opening, "unknown", ""

    def _header(self, user: Message) -> str:
        """Return what the generation prompt adds, "" when the template ignores it."""
        with_prompt = self.render([user], tools=self._given, prompt=True)
        without = self.render([user], tools=self._given, prompt=False)
        return with_prompt[len(without) :] if with_prompt.startswith(without) else ""

    def _find_ending(self, user: Message, answer: Message, text: str) -> Ending:
        tail = text.rsplit(_ANSWER, 1)[1]
        header = self._header(user)
        if header and tail.startswith(header):
            tail = ""  # a template that opens the next turn by itself has not closed this one
        follow: str | None = None
        with contextlib.suppress(RenderError):
            messages = [user, answer, Message(role="user", content=_FOLLOW)]
            longer = self.render(messages, tools=self._given, prompt=True)
            if _FOLLOW in longer:
                follow = longer.split(_FOLLOW, 1)[0].rsplit(_ANSWER, 1)[-1]
        ending = find_ending(tail, follow, special=self._special_pattern(), eos=self._end_of_sequence())
        if ending is None:
            raise RenderError(
                "the chat template does not end an answer, and neither generation config nor tokenizer has an eos token",
                code="no-stop",
                fix="set eos_token in tokenizer_config.json",
            )
        return ending

    def _special_pattern(self) -> re.Pattern[str]:
        tokens = set(self.tokenizer.special_tokens) | set(self.tokenizer.named_tokens.values())
        return re.compile("|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True) if t) or "(?!)")

    def _end_of_sequence(self) -> str | None:
        ids = self.tokenizer.end_tokens()
        named = self.tokenizer.named_tokens.get("eos_token")
        return (self.tokenizer.token_text(ids[0]) or named) if ids else named

    def _probe_system(self, user: Message) -> bool:
        try:
            system = Message(role="system", content=_SYSTEM)
            text = self.render([system, user], tools=self._given, prompt=True)
        except RenderError:
            return False
        return _SYSTEM in text and _USER in text

    def _probe_tools(self, user: Message, ending: Ending) -> tuple[Arguments | None, bool, str | None, str | None]:
        """Return (form of arguments, whether tools are shown, stop of a call, what is lost)."""
        call = Message(role="assistant", tool_calls=(_CALL,))
        try:
            prompt = self.render([user], tools=[_TOOL], prompt=True)
        except RenderError as error:
            return None, False, None, error.message
        shown = all(word in prompt for word in ("probe_tool", "probe-description", "probe_key"))
        reason: str | None = None if shown else "the tool list is not in the prompt"
        forms: tuple[Arguments, ...] = ("dict", "string")
        for form in forms:
            self._arguments = form
            self._dicts.clear()
            try:
                text = self.render([user, call], tools=[_TOOL], prompt=False)
            except (RenderError, DataError) as error:
                reason = error.message
                continue
            completion = text[len(_common_prefix(text, prompt)) :]
            if not all(word in completion for word in ("probe_tool", "probe_key", "probe-value")):
                reason = "the call is not in the text"
            elif '\\"probe_key' in completion or "&#34;" in completion or "&quot;" in completion:
                reason = "the arguments are escaped twice"
            else:
                tail = completion.rsplit("probe-value", 1)[1]
                return form, shown, find_call_stop(tail, ending, self._special_pattern()), None if shown else reason
        return None, shown, None, reason


def fill_ids(messages: Sequence[Message]) -> list[Message]:
    """Return messages whose calls all have an id, and results that name it; what has one keeps it.

    Ids are `call00001` and so on by the number of the call, as the agent loop gives them: nine letters and digits suit
    every template. A result belongs to the first call before it that has none yet.
    """
    filled: list[Message] = []
    number, waiting = 0, deque[str]()
    for message in messages:
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                number += 1
                calls.append(call if call.id is not None else replace(call, id=new_call_id(number)))
            waiting = deque(call.id for call in calls if call.id is not None)
            message = replace(message, tool_calls=tuple(calls))
        elif message.role == "tool":
            if message.tool_call_id is None and waiting:
                message = replace(message, tool_call_id=waiting[0])
            if message.tool_call_id in waiting:
                waiting.remove(message.tool_call_id)
        filled.append(message)
    return filled


def _common_prefix(first: str, *others: str) -> str:
    size = 0
    while all(text[size : size + 1] == first[size : size + 1] != "" for text in others):
        size += 1
    return first[:size]


def load_renderer(
    folder: Path,
    *,
    chat_template: Path | None = None,
    now: datetime.date | None = None,
    history_reasoning: Literal["as-data", "drop"] = "as-data",
    raw_control_tokens: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> ChatRenderer:
    """Return the renderer of a model folder: tokenizer files only, no weights.

    Raises:
        ModelError: when the tokenizer files are missing or unreadable.
        RenderError: when the template cannot render a plain chat.
    """
    tokenizer = TextTokenizer.from_folder(folder)
    return ChatRenderer(
        tokenizer,
        load_templates(folder, tokenizer, chat_template),
        now=now,
        history_reasoning=history_reasoning,
        raw_control_tokens=raw_control_tokens,
        variables=variables,
    )

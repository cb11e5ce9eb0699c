"""The two dialects: what the model is shown (prompt) and what it has to emit (completion) for each assistant message.

Training, the agent loop and evaluation all take prompts from here, which is what makes them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actune.core import api_list, react
from actune.core.errors import DataError, RenderError
from actune.core.parts import Span
from actune.core.types import Conversation, Message, Style, ToolSpec
from actune.render.chat import CLOSED_REASONING, ChatRenderer, Profile
from actune.render.native import NativeFormat, Reading, learn_format
from actune.render.parts import add_stop, split_reading
from actune.render.readback import find_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One assistant message as training sees it: its index, the whole prompt text and the completion with its stop."""

    index: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """What ends an output.

    `tokens` are ids that are not part of its text; `words` end it where they open a line and are part of its text;
    `texts` are turn endings that are no single token: they end it anywhere and are not part of its text.
    """

    tokens: frozenset[int]
    words: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class Dialect(Protocol):
    """How conversations are written for a model."""

    name: Style

    def prompt(self, conversation: Conversation, index: int) -> str:
        """Return the text that inference sends for `messages[:index]`, ready for the next assistant message."""
        ...

    def completion(self, conversation: Conversation, index: int, prompt: str) -> str:
        """Return the text that the model has to emit for the assistant message `index`, stop included."""
        ...

    def stops(self) -> Stops:
        """Return what ends an output of the model."""
        ...

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """Return an output of the model (its text as an engine returns it) as an assistant message.

        Raises:
            DataError: when it is neither a call nor an answer.
        """
        ...

    def find_difference(self, conversation: Conversation, index: int, completion: str) -> tuple[str, str] | None:
        """Return (field, what is read instead) where a completion is not read back as message `index`.

        Raises:
            DataError: when it cannot be read.
        """
        ...

    def find_parts(self, conversation: Conversation, index: int, completion: str) -> list[Span]:
        """Return the parts of a completion of message `index`, as they are read: in order, without gaps.

        Raises:
            DataError: when it cannot be read.
        """
        ...


def write_turns(dialect: Dialect, conversation: Conversation) -> list[Turn]:
    """Return a Turn for every assistant message, in order.

    Raises:
        RenderError, DataError: with `field` naming the message.
    """
    turns = []
    for index, message in enumerate(conversation.messages):
        if message.role == "assistant":
            try:
                prompt = dialect.prompt(conversation, index)
                completion = dialect.completion(conversation, index, prompt)
            except (RenderError, DataError) as error:
                if error.field is None or not error.field.startswith("messages"):
                    parts = (f"messages[{index}]", error.field)
                    error.field = ".".join(part for part in parts if part)
                raise
            turns.append(Turn(index=index, prompt=prompt, completion=completion))
    return turns


class ChatDialect:
    """The model's own chat template with native tool calls."""

    name: Style = "chat"

    def __init__(self, renderer: ChatRenderer) -> None:
        """Write through one renderer."""
        self._renderer = renderer
        self._format: NativeFormat | None = None

    def prompt(self, conversation: Conversation, index: int) -> str:
        """Return `messages[:index]` rendered with the tools and the generation prompt."""
        return self._renderer.render(conversation.messages[:index], tools=conversation.tools, prompt=True)

    def completion(self, conversation: Conversation, index: int, prompt: str) -> str:
        """Return what rendering message `index` adds to the prompt, cut after the first stop.

        Raises:
            RenderError: code `prompt-no-prefix` when the template writes the prompt differently once the answer is
                there, and nothing in that text is read back as the answer: then no text is what inference would ask
                for; `no-stop` when the answer does not end.
        """
        profile = self._renderer.profile
        messages = conversation.messages[: index + 1]
        if messages[index].tool_calls and profile.arguments is None:
            raise RenderError(
                f"the chat template cannot show tool calls: {profile.reason}",
                code="calls-lost",
                field=f"messages[{index}].tool_calls",
                fix="use --dialect react",
            )
        stopped = True
        for text, certain in self._renderer.continue_prompt(messages, tools=conversation.tools, prompt=prompt):
            completion = self._cut(text)
            if completion is None:
                stopped = False
            elif certain or self._reads_back(conversation, index, completion):
                return completion
        if not stopped:
            raise RenderError(
                f"the answer does not end in its stop {profile.stops[0]!r}",
                code="no-stop",
                field=f"messages[{index}]",
                fix="use --dialect react, or give another template with --chat_template",
            )
        raise _refuse_prompt(profile, index, prompt, reasons=bool(messages[index].reasoning))

    def _cut(self, text: str) -> str | None:
        """Return a text up to its first stop, None when it has none."""
        profile = self._renderer.profile
        ends = [at + len(stop) for stop in profile.stops if (at := text.find(stop)) >= 0]
        if ends:
            return text[: min(ends)]
        return text + profile.stops[0] if profile.stop_added else None

    def _reads_back(self, conversation: Conversation, index: int, completion: str) -> bool:
        try:
            return self.find_difference(conversation, index, completion) is None
        except DataError:
            return False

    def stops(self) -> Stops:
        """Return the turn endings of the template and the end-of-sequence tokens of the model."""
        return _find_stops(self._renderer)

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """Return reasoning, text and calls as the template would write them; see `NativeFormat.parse`."""
        return self.format.parse(text, tools)

    @property
    def format(self) -> NativeFormat:
        """How the template writes reasoning and calls, learnt on first use."""
        if self._format is None:
            self._format = learn_format(self._renderer)
        return self._format

    def find_difference(self, conversation: Conversation, index: int, completion: str) -> tuple[str, str] | None:
        """Return what is read otherwise.

        In a row without tools nothing is a call. Where the text of a row holds reasoning in the template's own marks,
        it may be read as such.
        """
        message, tools = conversation.messages[index], conversation.tools
        read = self._read(conversation, index, _cut_stop(completion, self._renderer)).message
        found = find_difference(read, message, tools)
        if found is not None and read.reasoning and read.content and not message.reasoning:
            inside = self.format.parse_plain(message.content)
            same = replace(message, content=inside.content, reasoning=inside.reasoning)
            return found if find_difference(read, same, tools) is not None else None
        return found

    def find_parts(self, conversation: Conversation, index: int, completion: str) -> list[Span]:
        """Return the parts of a completion; see `parts.split_reading`."""
        text = _cut_stop(completion, self._renderer)
        reading = self._read(conversation, index, text)
        if bool(reading.calls) != bool(conversation.messages[index].tool_calls):
            what = "a call is read as text" if not reading.calls else "text is read as a call"
            raise DataError(what, code="completion-unreadable", field=f"messages[{index}]")
        return add_stop(split_reading(text, reading), len(completion))

    def _read(self, conversation: Conversation, index: int, text: str) -> Reading:
        """Read an output of message `index` without its stop."""
        tools = conversation.tools
        # Where calls cannot be read at all, an answer is no call because it names a tool.
        acts = bool(conversation.messages[index].tool_calls) or (bool(tools) and self.format.form is not None)
        return self.format.read(text, tools) if acts else self.format.read_plain(text)


class ReactDialect:
    """Thought / Action / Action Input / Observation text, with the API list in the system prompt, on any template."""

    def __init__(self, renderer: ChatRenderer, language: api_list.Language) -> None:
        """Write through one renderer with instructions in one language; the markers are the same."""
        self.name: Style = "react" if language == "en" else "react_zh"
        self._renderer = renderer
        self._language: api_list.Language = language
        self._last: tuple[Conversation, int, str] | None = None

    def prompt(self, conversation: Conversation, index: int) -> str:
        """Return the rendered history plus, inside a turn, the steps and observations so far."""
        start = turn_start(conversation.messages, index)
        steps = [self._marked(message) for message in conversation.messages[start:index]]
        inside = "".join(
            react.write_observation(step) if step.role == "tool" else react.write_step(step) for step in steps
        )
        return self._before(conversation, start) + inside

    def _before(self, conversation: Conversation, start: int) -> str:
        """Return the rendered history before an assistant turn; the steps of one turn share it."""
        last = self._last
        if last is not None and last[0] is conversation and last[1] == start:
            return last[2]
        text = self._renderer.render(self._history(conversation, start), prompt=True)
        self._last = (conversation, start, text)
        return text

    def completion(self, conversation: Conversation, index: int, prompt: str) -> str:
        """Return the step up to the stop word `Observation:`, or the final answer with the turn's stop."""
        message = conversation.messages[index]
        text = react.write_step(message)
        return text if message.tool_calls else text + self._renderer.profile.answer_end

    def stops(self) -> Stops:
        """Return the stop word besides what ends a turn."""
        return replace(_find_stops(self._renderer), words=(react.STOP_WORD,))

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """Return a step as a message; arguments stay the raw text.

        What the template writes between an answer and its stop is no part of the answer.
        """
        profile = self._renderer.profile
        for stop in profile.stops:
            if profile.answer_end.endswith(stop):
                text = text.removesuffix(profile.answer_end.removesuffix(stop))
                break
        return react.read_message(react.parse_step(text))

    def find_difference(self, conversation: Conversation, index: int, completion: str) -> tuple[str, str] | None:
        """Return what is read otherwise; the thought of a step is reasoning, or the text beside its call."""
        message = conversation.messages[index]
        read = self.parse(completion.removesuffix(self._renderer.profile.answer_end), conversation.tools)
        thought = message.reasoning or (message.content if message.tool_calls else "")
        if read.reasoning.strip() != thought.strip():
            return "reasoning", f"the thought {read.reasoning!r}"
        if read.content.strip() != ("" if message.tool_calls else message.content.strip()):
            return "content", f"the answer {read.content!r}"
        calls = [[(call.name.strip(), call.arguments.strip()) for call in one.tool_calls] for one in (read, message)]
        return None if calls[0] == calls[1] else ("tool_calls", f"the calls {calls[0]}")

    def find_parts(self, conversation: Conversation, index: int, completion: str) -> list[Span]:
        """Return the parts of a step; see `react.find_parts`."""
        return add_stop(react.find_parts(_cut_stop(completion, self._renderer)), len(completion))

    def _history(self, conversation: Conversation, end: int) -> list[Message]:
        """Return messages[:end] as plain chat: the API list in the system text, each assistant turn one text."""
        messages = list(conversation.messages[:end])
        own = ""
        if messages and messages[0].role == "system":
            own = messages.pop(0).content
        if conversation.system_source is not None and conversation.style == self.name:
            system = conversation.system_source
        else:
            system = api_list.write_system(own, conversation.tools, self._language)
        history = [Message(role="system", content=system)]
        group: list[Message] = []
        for message in [*messages, None]:
            if group and (message is None or message.role in ("user", "system") or _ends_turn(group[-1])):
                text = react.write_turn([self._marked(member) for member in group])
                history.append(Message(role="assistant", content=text))
                group = []
            if message is None:
                break
            if message.role in ("assistant", "tool"):
                group.append(message)
            else:
                history.append(message)
        return history if self._renderer.profile.system else _fold_system(history)

    def _marked(self, message: Message) -> Message:
        if message.role != "tool":
            return message
        source = None if message.source_text is None else self._renderer.mark(message.source_text)
        return replace(message, content=self._renderer.mark(message.content), source_text=source)


def _refuse_prompt(profile: Profile, index: int, prompt: str, *, reasons: bool) -> RenderError:
    """Return the error for a prompt that the text with the answer does not begin with."""
    why, fix = "", "use --dialect react, or give another template with --chat_template"
    switch = "--template_variables (often enable_thinking={}), or another template with --chat_template"
    closed = CLOSED_REASONING.search(prompt)
    shown = profile.opening if closed is None else closed.group()
    if reasons and (profile.opens == "empty-reasoning" or "/" in shown):
        why = f": the prompt ends the reasoning at once ({shown!r}), the answer has some"
        fix = "remove the reasoning, or let the prompt leave it open: " + switch.format("true")
    elif profile.opens == "reasoning" and not reasons:
        why = f": the prompt opens reasoning ({profile.opening!r}), an answer without any is written otherwise"
        fix = "give the answer reasoning, or let the prompt not open it: " + switch.format("false")
    elif profile.opens == "unknown":
        why = f": the prompt ends in {profile.opening!r}, which no answer begins with"
    return RenderError(
        f"the chat template writes the prompt differently once the answer follows{why}",
        code="prompt-no-prefix",
        field=f"messages[{index}]",
        fix=fix,
    )


def _cut_stop(completion: str, renderer: ChatRenderer) -> str:
    """Return a completion without the template's stop that it ends in, if any."""
    stop = max((stop for stop in renderer.profile.stops if completion.endswith(stop)), key=len, default="")
    return completion.removesuffix(stop)


def _find_stops(renderer: ChatRenderer) -> Stops:
    tokens, texts = set(renderer.tokenizer.end_tokens()), []
    for stop in renderer.profile.stops:
        token = renderer.tokenizer.token_id(stop)
        if token is not None:
            tokens.add(token)
        else:
            texts.append(stop)
    return Stops(tokens=frozenset(tokens), texts=tuple(texts))


def turn_start(messages: Sequence[Message], index: int) -> int:
    """Return where the assistant turn begins that message `index` belongs to or would continue."""
    start = index
    while start > 0 and messages[start - 1].role in ("assistant", "tool") and not _ends_turn(messages[start - 1]):
        start -= 1
    return start


def _ends_turn(message: Message) -> bool:
    return message.role == "assistant" and not message.tool_calls


def _fold_system(history: list[Message]) -> list[Message]:
    """Put the system text before the first user text, for templates that lose or refuse a system message."""
    system, rest = history[0], history[1:]
    for index, message in enumerate(rest):
        if message.role == "user":
            content = f"{system.content}\n\n{message.content}" if system.content else message.content
            rest[index] = replace(message, content=content)
            return rest
    return [replace(system, role="user"), *rest]

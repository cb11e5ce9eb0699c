"""`actune chat`: talk with an agent in the terminal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from actune.agents.loop import Task
from actune.agents.tools.toolbox import Toolbox
from actune.agents.trace import Trace
from actune.core.errors import ActuneError, ConfigError
from actune.core.files import atomic_text
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.formats import openai
from actune.recipes.agents import Bench, Choice, build_bench, load_tools, open_conversation, redact
from actune.recipes.approval import make_approver
from actune.recipes.display import Display, clean

_HELP = """\
/system [TEXT]   show the system text, or set it and begin anew
/tools [SPEC..]  show the tools, or load others and begin anew
/reset           begin anew
/save FILE       write the conversation as one row of training data (format openai)
/help            this list
/exit            leave (also Ctrl-D)
A line that ends in \\ goes on in the next one; several lines may also stand between lines of \"\"\".
A question that begins with / is typed with a blank before it.
Ctrl-C stops an answer; that question and what came of it are taken back."""


def chat(choice: Choice, *, system: str) -> int:
    """Talk until the input ends; returns the exit code.

    Raises:
        ActuneError: before the first question; later errors are shown and the talk goes on.
    """
    console = Console(highlight=False)
    reader = Reader(_terminal_input)
    approve = make_approver(reader.read, console)
    bench = build_bench(choice, ask=lambda call: ask_observation(call, reader, console), approve=approve)
    session = Session(bench, choice, system, console, reader)
    with closing(session):
        session.talk()
    return 0


class Reader:
    """Reads what a person types, several lines where they say so."""

    def __init__(self, read: Callable[[str], str]) -> None:
        """Read lines with a function that takes the prompt and raises EOFError at the end."""
        self._read = read

    def read(self, prompt: str) -> str:
        r"""Return one input: a line, lines joined by a trailing backslash, or the lines between two lines of \"\"\".

        Raises:
            EOFError: the input has ended before the first line.
        """
        line = self._read(prompt)
        if line.strip() == '"""':
            lines: list[str] = []
            with contextlib.suppress(EOFError):
                while (line := self._read("... ")).strip() != '"""':
                    lines.append(line)
            return "\n".join(lines)
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._read("... "))
            except EOFError:
                break
        return "\n".join(lines)


@dataclass(slots=True)
class _Talk:
    """What has been said: messages and the tools the model knows of."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]


class Session:
    """One talk with an agent."""

    def __init__(self, bench: Bench, choice: Choice, system: str, console: Console, reader: Reader) -> None:
        """Begin with a system text; questions come from `reader`, everything is written to `console`."""
        self._bench = bench
        self._choice = choice
        self._system = system
        self._console = console
        self._reader = reader
        self._saved: set[Path] = set()
        self._talk = _Talk(*open_conversation(system, bench.toolbox))

    def close(self) -> None:
        """Let go of the tools."""
        self._bench.close()

    def talk(self) -> None:
        """Answer until the input ends."""
        self._say(f"dialect {self._bench.style}, tools: {len(self._talk.tools)}; /help lists the commands")
        while True:
            try:
                text = self._reader.read("> ")
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                self._console.print()
                self._say("Ctrl-D or /exit leaves")
                continue
            if not text.strip():
                continue
            try:
                if text.startswith("/"):
                    if not self._command(text):
                        return
                else:
                    self.ask(text)
            except ActuneError as error:
                self._console.print(f"error: {error}", style="red", markup=False)

    def ask(self, text: str) -> Trace | None:
        """Answer one question; None when it was interrupted, and then it is as if it had not been asked."""
        display = Display(self._console)
        messages = (*self._talk.messages, Message(role="user", content=text))
        try:
            trace = self._bench.agent.run(Task(messages=messages, tools=self._talk.tools), on_event=display.show)
        except KeyboardInterrupt:
            self._console.print()
            self._say("stopped; the question is taken back")
            return None
        display.end(trace)
        kept = _keep_last(trace)
        if kept == messages:  # nothing came of it: the next question would stand behind one that has no answer
            self._say("the question is taken back")
        else:
            self._talk.messages = kept
        return trace

    def _command(self, text: str) -> bool:
        """Do a command; returns whether the talk goes on."""
        name, _, rest = text.strip().partition(" ")
        rest = rest.strip()
        match name:
            case "/exit" | "/quit":
                return False
            case "/help":
                self._say(_HELP)
            case "/reset":
                self._begin(self._system, self._bench.toolbox)
            case "/system":
                self._set_system(rest)
            case "/tools":
                self._set_tools(rest)
            case "/save":
                self._save(rest)
            case _:
                self._say(f"there is no command {name}; /help lists them")
        return True

    def _begin(self, system: str, toolbox: Toolbox) -> None:
        messages, tools = open_conversation(system, toolbox)
        self._system = system
        self._talk = _Talk(messages, tools)
        self._say("a new conversation begins")

    def _set_system(self, text: str) -> None:
        if text:
            self._begin(text, self._bench.toolbox)
        else:
            self._say(clean(self._system) if self._system else "there is no system text")

    def _set_tools(self, text: str) -> None:
        if not text:
            listed = [f"{tool.name}: {clean(tool.description)}" for tool in self._talk.tools]
            self._say("\n".join(listed) or "there are no tools")
            return
        # Patterns of the command line hold for other tools too, where they match.
        permission = replace(self._choice.permission, strict=False)
        toolbox = load_tools(
            replace(self._choice, tools=tuple(text.split()), permission=permission),
            lambda call: ask_observation(call, self._reader, self._console),
            make_approver(self._reader.read, self._console),
        )
        toolbox.secrets.add_all(self._bench.toolbox.secrets)
        try:
            self._begin(self._system, toolbox)  # refuses first what does not go with the system text
        except BaseException:
            toolbox.close()
            raise
        self._bench.toolbox.close()
        self._bench = replace(self._bench, agent=self._bench.agent.with_toolbox(toolbox), toolbox=toolbox)

    def _save(self, name: str) -> None:
        if not name:
            raise ConfigError("/save needs a file", fix="for example /save talk.jsonl")
        if not any(message.role == "assistant" for message in self._talk.messages):
            raise ConfigError("there is nothing to save yet", fix="ask something first")
        path = Path(name)
        if path.exists() and path.resolve() not in self._saved:
            raise ConfigError(f"{path} exists already", fix="give another name")
        if not path.parent.is_dir():
            raise ConfigError(f"there is no folder {path.parent}", fix="make it first")
        row = openai.write(
            Conversation(messages=self._talk.messages, tools=self._talk.tools, source=Source(file="chat", line=1))
        )
        atomic_text(path, json.dumps(redact(row, self._bench.toolbox.secrets), ensure_ascii=False) + "\n")
        self._saved.add(path.resolve())
        self._say(f"written to {path}")

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)


def ask_observation(call: ToolCall, reader: Reader, console: Console) -> str:
    """Ask the person for what a call gives."""
    console.print(f"  | type the observation of {clean(call.name)}:", style="bold cyan", markup=False)
    try:
        return reader.read("  > ")
    except EOFError:
        return ""


def _keep_last(trace: Trace) -> tuple[Message, ...]:
    """Return the messages to go on from; an output that was no answer stays in the history as it was emitted."""
    messages = trace.messages
    if trace.reason == "answer" or not trace.steps or messages[-1].role == "assistant":
        return messages
    text = trace.steps[-1].output
    if not text or trace.steps[-1].calls:
        return messages
    return (*messages, Message(role="assistant", content=text, source_text=text))


def _terminal_input(prompt: str) -> str:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() editing and history
    return input(prompt)

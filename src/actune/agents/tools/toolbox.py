"""Tools: what a model is told of them, how its calls are checked, made and answered.

Whatever a model or a tool does becomes an Observation that the model can act on; only Ctrl-C passes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actune.agents.tools.arguments import find_problems
from actune.agents.tools.calling import Running, keep_stdout_clean
from actune.agents.tools.permission import Gate
from actune.agents.tools.repair import repair_arguments
from actune.agents.tools.secrets import Secrets
from actune.agents.tools.tool import Tool, ToolFailure, join_names
from actune.core.errors import DataError
from actune.core.types import ToolCall, ToolSpec

# Calls made at the same time; more wait.
_PARALLEL = 8
# Calls of one tool, and of all, that may be left behind still running before it, or any, is called no more.
_LEFT_OF_ONE = 4
_LEFT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a call gave: the text for the model, and how long it took.

    `error` is None, or a stable short code: `unknown-tool`, `arguments-unreadable`, `arguments-invalid`,
    `tool-failed`, `tool-timeout`, `tool-denied`, `tool-refused` (by a person), `not-recorded`; or `output-cut`, where the
    call went well and its text is not whole.
    `repaired` is None, or the arguments that were used, as JSON, where those that the model wrote could not be read
    (`repair.py`): a notice for people and traces; the model is not told, and metrics read what it wrote.
    """

    text: str
    error: str | None
    seconds: float
    repaired: str | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A call that can be made: by a tool, or (None) by a person."""

    call: ToolCall
    tool: Tool | None
    arguments: dict[str, Any]
    repaired: bool = False


class Toolbox:
    """The tools of an agent: their descriptions, and who answers."""

    def __init__(
        self,
        specs: Sequence[ToolSpec] = (),
        tools: Sequence[Tool] = (),
        *,
        ask: Callable[[ToolCall], str] | None = None,
        seconds: float = 30.0,
        characters: int = 20_000,
        secrets: Secrets | None = None,
        gate: Gate | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Put together descriptions and tools (the last of a name answers); `ask` answers for all other names.

        `seconds` is the time of one call (a person has all the time), `characters` the longest text of an Observation;
        `secrets` are kept out of all of them. The `gate` says which tools may be called; `specs` are without those that
        may not. `close` lets go of what the tools hold.
        """
        self.secrets = secrets or Secrets()
        self._tools = {tool.spec.name: tool for tool in tools}
        self._gate = gate or Gate()
        denied = {name for name, tool in self._tools.items() if self._gate.permission.denies(tool)}
        self.specs = tuple(spec for spec in specs if spec.name not in denied)
        self._close = close
        self._left: list[tuple[Tool, Running]] = []
        self._ask = ask
        self._seconds = seconds
        self._characters = characters

    @property
    def open_ended(self) -> bool:
        """Whether it answers calls to any tool that a conversation lists: a person does."""
        return self._ask is not None

    def call(self, call: ToolCall, specs: Sequence[ToolSpec] | None = None) -> Observation:
        """Make one call; see `call_each`."""
        return self.call_each([(call, specs)])[0]

    def call_all(self, calls: Sequence[ToolCall], *, specs: Sequence[ToolSpec] | None = None) -> list[Observation]:
        """Make the calls of one conversation; see `call_each`."""
        return self.call_each([(call, specs) for call in calls])

    def call_each(self, wanted: Sequence[tuple[ToolCall, Sequence[ToolSpec] | None]]) -> list[Observation]:
        """Make calls and return their Observations, in order; tools that allow it run side by side.

        Beside each call are the tools that its conversation lists (None: `self.specs`): a call is held to what the
        model was told. A person and recorded observations are asked one after the other, in the order of the calls.
        """
        plans = [self._admit(self._plan(call, specs)) for call, specs in wanted]
        results = {index: plan for index, plan in enumerate(plans) if isinstance(plan, Observation)}
        free = [
            (index, plan.tool, plan.arguments)
            for index, plan in enumerate(plans)
            if isinstance(plan, _Plan) and plan.tool is not None and plan.tool.parallel and not plan.tool.inline
        ]
        for start in range(0, len(free), _PARALLEL):
            batch = free[start : start + _PARALLEL]
            answers = self._run([(tool, arguments) for _, tool, arguments in batch])
            results |= {index: answer for (index, _, _), answer in zip(batch, answers, strict=True)}
        for index, plan in enumerate(plans):
            if index not in results and isinstance(plan, _Plan):
                results[index] = self._answer(plan)
        return [_note_repair(results[index], plan) for index, plan in enumerate(plans)]

    def close(self) -> None:
        """Let go of what the tools hold: servers end. Safe to call again."""
        if self._close is not None:
            self._close()

    # --- checks -----------------------------------------------------------------------------------------------------

    def _plan(self, call: ToolCall, specs: Sequence[ToolSpec] | None) -> _Plan | Observation:
        """Return what to do, or why the call is not made."""
        listed = self.specs if specs is None else specs
        spec = next((one for one in listed if one.name == call.name), None)
        tool = self._tools.get(call.name)
        anything = specs is None and not self.specs and self.open_ended
        if (spec is None and not anything) or (tool is None and not self.open_ended):
            names = [one.name for one in listed if self.open_ended or one.name in self._tools]
            return self._refuse("unknown-tool", f"no tool named {_quote(call.name)}; there are: {join_names(names)}")
        try:
            arguments = call.parse_arguments()
        except DataError as error:
            mended = None if spec is None else repair_arguments(call.arguments)
            if spec is None or mended is None or find_problems(spec, mended):
                return self._refuse("arguments-unreadable", f"{error.message}; {error.fix}")
            return _Plan(call, tool, mended, repaired=True)
        if spec is not None:
            problems = find_problems(spec, arguments)
            if problems:
                return self._refuse("arguments-invalid", write_problems(call.name, problems))
        return _Plan(call, tool, arguments)

    def _admit(self, plan: _Plan | Observation) -> _Plan | Observation:
        """Hold a call to what may be done with its tool; a person is asked here, one call after the other."""
        if isinstance(plan, Observation) or plan.tool is None:
            return plan
        failure = self._gate.refuse(plan.call, plan.tool, plan.arguments)
        return plan if failure is None else self._observe(failure, 0.0)

    def _refuse(self, code: str, text: str) -> Observation:
        return self._observe(ToolFailure(code, text), 0.0)

    # --- calls ------------------------------------------------------------------------------------------------------

    def _run(self, wanted: Sequence[tuple[Tool, dict[str, Any]]]) -> list[Observation]:
        """Call tools, each in a thread of its own."""
        running: list[tuple[Tool, Running] | ToolFailure] = []
        with keep_stdout_clean():
            for tool, arguments in wanted:
                busy = self._find_busy(tool)
                if busy is not None:
                    running.append(busy)
                    continue
                try:
                    limit = self._seconds if tool.seconds is None else tool.seconds
                    running.append((tool, Running(_guard(tool, arguments), limit)))
                except RuntimeError as error:
                    running.append(ToolFailure("tool-failed", f"the call could not be started: {error}"))
            try:
                return [self._wait(one) for one in running]
            except BaseException:  # Ctrl-C: what can be stopped does not go on
                for one in running:
                    if not isinstance(one, ToolFailure):
                        one[1].stop()
                        self._left.append(one)
                raise

    def _wait(self, started: tuple[Tool, Running] | ToolFailure) -> Observation:
        if isinstance(started, ToolFailure):
            return self._observe(started, 0.0)
        _, running = started
        ended = running.wait()
        if not ended:
            self._left.append(started)
        value: Any = running.value
        if not ended or (isinstance(value, ToolFailure) and value.code == "tool-timeout"):
            value = ToolFailure("tool-timeout", f"no answer within {running.limit:g} s")
        return self._observe(value, running.seconds)

    def _find_busy(self, tool: Tool) -> ToolFailure | None:
        """Return why a tool is not called while earlier calls, which nobody waits for any more, still run."""
        self._left = [pair for pair in self._left if not pair[1].has_ended()]
        same = [running for other, running in self._left if other.spec.name == tool.spec.name]
        if not tool.parallel:
            # One that ends itself at its time limit is gone in a moment.
            alone = [running for other, running in self._left if not other.parallel]
            if any(not running.has_ended(0.5) for running in alone):
                return ToolFailure("tool-failed", "an earlier call has not ended, and only one is made at a time")
        if len(same) >= _LEFT_OF_ONE:
            return ToolFailure("tool-failed", f"{len(same)} earlier calls of {_quote(tool.spec.name)} have not ended")
        if len(self._left) >= _LEFT:
            return ToolFailure("tool-failed", f"{len(self._left)} earlier calls of tools have not ended")
        return None

    def _answer(self, plan: _Plan) -> Observation:
        if plan.tool is not None and not plan.tool.inline:
            return self._run([(plan.tool, plan.arguments)])[0]
        started = time.perf_counter()
        if plan.tool is not None:
            value = _guard(plan.tool, plan.arguments)()
        else:
            assert self._ask is not None
            value = self._ask(plan.call)  # what the person's terminal raises is not the model's business
        return self._observe(value, time.perf_counter() - started)

    def _observe(self, value: str | ToolFailure, seconds: float) -> Observation:
        text, error = (value.text, value.code) if isinstance(value, ToolFailure) else (value, None)
        # Of a text of 50 MB only what can be shown is looked at, and a secret that begins in it.
        length, most, margin = len(text), self._characters, self.secrets.longest
        text = self.secrets.redact(text[: most + margin])
        text = text[: len(text) - margin] if length > most + margin else text  # half a secret may stand at the end
        # Lone surrogates cannot be tokenised; they are shown escaped.
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        if length > most or len(text) > most:
            note = f"... [cut: {most:,} of {max(length, len(text)):,} characters]"
            text, error = text[:most] + note, error or "output-cut"
        return Observation(text=text, error=error, seconds=seconds)


def _note_repair(observation: Observation, plan: _Plan | Observation) -> Observation:
    if isinstance(plan, Observation) or not plan.repaired:
        return observation
    return dataclasses.replace(observation, repaired=json.dumps(plan.arguments, ensure_ascii=False))


def write_problems(name: str, problems: Sequence[str]) -> str:
    """Return the text of an Observation on arguments that do not fit."""
    return f"the arguments of {_quote(name)} do not fit: {'; '.join(problems)}"


def write_result(value: Any) -> str:  # noqa: ANN401 - whatever a tool returns
    """Return what a tool gave as text: a str as it is, everything else as JSON; None is `null`.

    Dataclasses and pydantic models become objects, other values that JSON does not know their `str()`.
    """
    return str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_simplify)


def _simplify(value: Any) -> Any:  # noqa: ANN401 - whatever a tool returns
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    dump = getattr(type(value), "model_dump", None)
    return dump(value, mode="json") if callable(dump) else str(value)


def _guard(tool: Tool, arguments: dict[str, Any]) -> Callable[[], str | ToolFailure]:
    def run() -> str | ToolFailure:
        try:
            value = tool.call(arguments)
            return value if isinstance(value, ToolFailure) else write_result(value)
        except BaseException as error:  # noqa: BLE001 - foreign code: SystemExit included, it must not end the process
            return ToolFailure("tool-failed", _describe(error))

    return run


def _describe(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - foreign code again
        text = ""
    return f"{kind}: {text}" if text else kind


def _quote(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")

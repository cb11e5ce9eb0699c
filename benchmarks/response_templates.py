"""For which chat templates can a `response_template` be stored, and does transformers read messages back with it?

    python benchmarks/response_templates.py --templates DIR --tokenizer DIR [--react]

For every `*.jinja` of a folder whose format of calls is learnt: the tokenizer is saved as training saves it, loaded from
there with AutoTokenizer, and given ids of prompts and outputs of messages that the template's own probes do not hold.
A line a template: `stored` or the reason. Exits with 1 if a stored spec gives a message back changed.
With --react, the same for ReAct text on every template that renders a chat.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from actune.core.errors import ActuneError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.modeling.response_template import KEY
from actune.modeling.tokenizer_files import TokenizerSaver
from actune.render.chat import load_renderer
from actune.render.dialects import ChatDialect, Dialect, ReactDialect
from actune.render.native import learn_format
from actune.render.response_trials import Trial, compare

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "a city"},
        "days": {"type": "integer", "description": "how many"},
        "limit": {"type": "number", "description": "a bound"},
        "units": {"type": "string", "enum": ["C", "F"], "description": "which"},
        "filters": {"type": "object", "description": "what to leave out"},
        "tags": {"type": "array", "description": "names", "items": {"type": "string"}},
        "exact": {"type": "boolean", "description": "whether"},
    },
}
TOOLS = tuple(
    ToolSpec(name=name, description=f"what {name} does", parameters=SCHEMA)
    for name in ("get_weather", "search.web-v2", "bookFlight")
)
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"city": "Paris"},
    {"city": 'São Paulo, "SP" (BR) 上海 🚆', "days": 0, "units": "C"},
    {"filters": {"price": {"max": 10.5}, "near": ["x", "y z"]}, "tags": ["a, b", "it's"], "exact": False},
    {"city": 'line one\n\nline two: {"k": [1, 2]}\n', "limit": -0.25},
    {"city": "<b>bold</b> & 1 < 2 > 0 \\ / # [x](y)", "exact": True, "days": 31},
    {"city": "42", "days": 42},
    {},
)
THOUGHTS = ("", "I should look.\nFirst the weather, then {flights} [maybe] <soon>.")
SAID = ("", "One moment, I look that up: {1} [2].")
ANSWERS = (
    "It is 21 °C and sunny.",
    'Here is JSON:\n```json\n{"name": "x", "list": [1]}\n```\nand *more*.',
    "好的，明天多云。\n\n- 一\n- 二",
)
ASKED = Message(role="user", content="How is the weather?")


def messages(*, react: bool) -> Iterator[Message]:
    """Yield answers of many kinds."""
    for thought in THOUGHTS:
        for answer in ANSWERS:
            yield Message(role="assistant", reasoning=thought, content=answer)
        for number, arguments in enumerate(ARGUMENTS):
            raw = json.dumps(arguments, ensure_ascii=False)
            call = ToolCall(name=TOOLS[number % len(TOOLS)].name, arguments=raw, id=f"call{number:05d}")
            other = ToolCall(name="bookFlight", arguments='{"city": "Rome", "days": 2}', id="call00099")
            for said in ("",) if react else SAID:
                for calls in ((call,),) if react else ((call,), (call, other), (other, call, other)):
                    yield Message(role="assistant", reasoning=thought, content=said, tool_calls=calls)


def trials(dialect: Dialect, stops: tuple[str, ...], *, react: bool) -> Iterator[tuple[Trial, str]]:
    """Yield (what has to come back, the output with its stop) for what the template writes in full."""
    first = ToolCall(name="get_weather", arguments='{"city": "Oslo"}', id="call00001")
    called = Message(role="assistant", reasoning="I look." if react else "", tool_calls=(first,))
    seen = Message(role="tool", content='cold\n{"temp": [-3]}', tool_call_id=first.id, name=first.name)
    for before in ((ASKED,), (ASKED, called, seen)):
        for message in messages(react=react):
            row = Conversation(messages=(*before, message), tools=TOOLS, source=Source(file="made", line=1))
            try:
                prompt = dialect.prompt(row, len(before))
                text = dialect.completion(row, len(before), prompt)
                body = text
                for stop in stops:
                    body = body.removesuffix(stop)
                read = dialect.parse(body, TOOLS)
            except ActuneError:
                continue
            as_written = compare(Trial(prompt=prompt, text=body, message=message, tools=TOOLS), _as_dict(read))
            if as_written is None:  # else the template loses or changes something itself
                yield Trial(prompt=prompt, text=body, message=message, tools=TOOLS), text


def _as_dict(message: Message) -> dict[str, Any]:
    calls = [{"function": {"name": c.name, "arguments": c.parse_arguments()}} for c in message.tool_calls]
    return {"thinking": message.reasoning, "content": message.content, "tool_calls": calls}


def try_template(template: Path, tokenizer: Path, *, react: bool) -> tuple[str, str] | None:
    """Return (state, detail) of one template: stored, none or WRONG; None where it does not apply."""
    with tempfile.TemporaryDirectory() as name:
        base, saved = Path(name) / "base", Path(name) / "saved"
        base.mkdir()
        saved.mkdir()
        (base / "tokenizer.json").symlink_to((tokenizer / "tokenizer.json").resolve())
        shutil.copyfile(tokenizer / "tokenizer_config.json", base / "tokenizer_config.json")
        shutil.copyfile(template, base / "chat_template.jinja")
        try:
            renderer = load_renderer(base)
        except ActuneError:
            return None
        if not react and learn_format(renderer).reason is not None:
            return None
        notices: list[str] = []
        saver = TokenizerSaver(renderer, "react" if react else "chat", say=notices.append)
        saver(saved)
        config = json.loads((saved / "tokenizer_config.json").read_text(encoding="utf-8"))
        if KEY not in config:
            return "none", notices[0].split(": ", 2)[-1]
        loaded: Any = AutoTokenizer.from_pretrained(saved, local_files_only=True, trust_remote_code=False)
        dialect: Dialect = ReactDialect(renderer, "en") if react else ChatDialect(renderer)
        count = calls = 0
        for trial, text in trials(dialect, renderer.profile.stops, react=react):
            ids = [renderer.tokenizer.encode(part) for part in (trial.prompt, text)]
            tools = [tool.describe() for tool in trial.tools]
            try:
                fault = compare(trial, loaded.parse_response(ids[1], prefix=ids[0], tools=tools))
            except Exception as error:  # noqa: BLE001 - the figure is what comes back
                fault = f"{type(error).__name__}: {error}"
            if fault is not None:
                return "WRONG", f"{text!r}: {fault}"
            count += 1
            calls += bool(trial.message.tool_calls)
        if not calls:
            return "WRONG", "stored, and no message of this benchmark can be written"
        return "stored", f"{count} messages come back, {calls} of them with calls"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--templates", type=Path, required=True, help="folder of *.jinja")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--react", action="store_true", help="ReAct text instead of the template's own calls")
    args = parser.parse_args()
    states: Counter[str] = Counter()
    for template in sorted(args.templates.glob("*.jinja")):
        found = try_template(template, args.tokenizer, react=args.react)
        if found is None:
            continue
        states[found[0]] += 1
        print(f"{template.stem[:50]:50} {found[0]:7} {found[1][:400]}", flush=True)
    print(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    return 1 if states["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())

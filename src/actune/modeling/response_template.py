"""The parser spec of a saved tokenizer: tried with transformers' own parser, then put into tokenizer_config.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.chat_parsing import ResponseParser, parse_response

from actune.core.files import atomic_text
from actune.core.types import Style
from actune.render.chat import ChatRenderer
from actune.render.native import learn_format
from actune.render.response_template import build_react_templates, build_templates
from actune.render.response_trials import Trial, chat_trials, compare, react_trials
from actune.render.tokenizer import read_json

KEY = "response_template"
_CHUNK = 3  # characters at once, as a server feeds a stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A spec that gives back every trial, or why there is none."""

    spec: dict[str, Any] | None = None
    reason: str | None = None


def find_response_template(renderer: ChatRenderer, style: Style | None) -> Found:
    """Return the spec for a model that writes calls in `style` (None: as its chat template does), if one holds."""
    if style in ("react", "react_zh"):
        specs, reason, trials = build_react_templates(renderer), None, list(react_trials(renderer))
    else:
        candidates = build_templates(learn_format(renderer), renderer)
        specs, reason = candidates.specs, candidates.reason
        trials = list(chat_trials(renderer)) if specs else []
    if reason is None and not any(trial.message.tool_calls for trial in trials):
        reason = "no call of a probe is written in full"
    if reason is not None:
        return Found(reason=reason)
    faults = []
    for spec in specs:
        fault = try_spec(spec, trials, renderer.profile.stops[0])
        if fault is None:
            return Found(spec=spec)
        faults.append(fault)
    return Found(reason=faults[0] if faults else "it is unknown where an answer begins in a prompt")


def store_response_template(folder: Path, found: Found, *, keep: bool) -> None:
    """Put the spec into tokenizer_config.json of a folder; without one, an older spec there stays only with `keep`."""
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    if found.spec is not None:
        config[KEY] = found.spec
    elif not keep:
        config.pop(KEY, None)
    atomic_text(path, json.dumps(config, ensure_ascii=False, indent=2) + "\n")


def try_spec(spec: dict[str, Any], trials: Sequence[Trial], stop: str) -> str | None:
    """Return what does not come back of trials with transformers' parser, whole and in pieces; None if all does."""
    for trial in trials:
        tools: list[Any] = [tool.describe() for tool in trial.tools]
        for text in (trial.text, trial.text + stop):
            try:
                whole = parse_response(text, spec, prefix=trial.prompt, tools=tools)
                parser = ResponseParser(spec, prefix=trial.prompt, tools=tools)
                for start in range(0, len(text), _CHUNK):
                    parser.feed(text[start : start + _CHUNK])
                pieces, _ = parser.finalize()
            except Exception as error:  # noqa: BLE001 - whatever it is, the spec does not hold
                return f"{trial.text!r} is not read: {type(error).__name__}: {error}"
            fault = compare(trial, whole)
            if fault is not None:
                return f"{trial.text!r}: {fault}"
            if pieces != whole:
                return f"{trial.text!r}: fed in pieces it is read as {pieces}, as a whole as {whole}"
    return None

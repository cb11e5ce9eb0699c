"""How what was exported is served: one command line a server, and what to know of it.

Options were read from the sources of vLLM 0.33 (`entrypoints/launchers/cli_args.py`, `parser/response_template.py`: the parser
`hf` reads the stored response_template and refuses `tool_choice` other than auto and none), SGLang 0.5.23 (`server_args.py`,
`parser/template_detection.py`: it takes the response_template by itself) and llama.cpp of November 2026 (`llama-server`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from actune.core import react
from actune.core.types import Style
from actune.exporting.react_template import FILE

Form = Literal["merged", "gguf", "ollama", "adapter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A folder to serve: its form, the weights in it, and what lies beside them.

    `fields` are those of the stored response_template, `react_file` says whether the chat template for ReAct is there.
    `base` and `rank` are of an adapter, `refusals` what servers say to it.
    """

    form: Form
    name: str
    style: Style
    weights: str = "."
    context: int | None = None
    fields: Collection[str] = ()
    react_file: bool = False
    base: str = ""
    rank: int = 0
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A server, the line that starts it inside the exported folder, and notes."""

    server: str
    line: str
    notes: tuple[str, ...] = ()


def list_commands(served: Served) -> list[Command]:
    """Return the commands for a folder, the most exact first; each is run inside the folder."""
    if served.form == "gguf":
        return [_llama_cpp(served)]
    if served.form == "ollama":
        create = f"ollama create {served.name.lower()} -f Modelfile"
        return [Command(server="Ollama", line=create), *([_llama_cpp(served)] if served.weights != "." else [])]
    own = [_actune(served)] if served.form == "merged" else []
    return [*own, _vllm(served), _sglang(served)]


def _actune(served: Served) -> Command:
    dialect = f" --dialect {served.style}" if served.style != "chat" else ""
    return Command(server="actune", line=f"actune serve --model .{dialect}")


def _vllm(served: Served) -> Command:
    words = ["vllm serve", served.base if served.form == "adapter" else "."]
    if served.form == "adapter":
        words += ["--enable-lora", f"--max-lora-rank {_round_rank(served.rank)}", f"--lora-modules {served.name}=."]
        words += ["--tokenizer ."]
    else:
        words.append(f"--served-model-name {served.name}")
    words += _template(served, "--chat-template")
    notes = list(_react_notes(served))
    if "tool_calls" in served.fields:
        words += ["--enable-auto-tool-choice", "--tool-call-parser hf"]
        words += ["--reasoning-parser hf"] if "thinking" in served.fields else []
        if served.style != "chat":
            notes.append(
                'vLLM also needs "include_stop_str_in_output": true, or it takes a call for one that was cut off'
            )
    else:
        notes.append("no response_template is stored: calls come as text, unless a parser of the server fits the model")
    return Command(server="vLLM", line=" ".join(words), notes=(*served.refusals, *notes))


def _sglang(served: Served) -> Command:
    words = ["python -m sglang.launch_server --model-path", served.base if served.form == "adapter" else "."]
    if served.form == "adapter":
        words += [
            "--enable-lora",
            f"--lora-paths {served.name}=.",
            f"--max-lora-rank {_round_rank(served.rank)}",
            "--tokenizer-path .",
        ]
    else:
        words.append(f"--served-model-name {served.name}")
    words += _template(served, "--chat-template")
    return Command(server="SGLang", line=" ".join(words), notes=_react_notes(served))


def _llama_cpp(served: Served) -> Command:
    words = [f"llama-server -m {served.weights} --jinja"]
    words += [f"-c {served.context}"] if served.context else []
    words += _template(served, "--chat-template-file")
    notes = [*_react_notes(served)]
    if served.style != "chat":
        notes.append("llama.cpp returns ReAct steps as text; actune's own client and server read them")
    return Command(server="llama.cpp", line=" ".join(words), notes=tuple(notes))


def _template(served: Served, flag: str) -> list[str]:
    return [f"{flag} {FILE}"] if served.react_file else []


def _react_notes(served: Served) -> tuple[str, ...]:
    if served.style == "chat":
        return ()
    stop = f'send "stop": ["{react.STOP_WORD}"] with every request'
    if served.react_file:
        return (stop,)
    return (
        stop,
        "the model's chat template shows tools otherwise than in training: give the API list as the system text",
    )


def _round_rank(rank: int) -> int:
    """Return the smallest rank that vLLM takes (`config/lora.py`)."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)

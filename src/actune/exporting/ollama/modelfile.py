"""The Modelfile: weights, template, stops, and a comment that says for which conversations the template is exact."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from actune.core import react
from actune.core.errors import ConfigError
from actune.core.types import Style
from actune.exporting.ollama.native import write_native
from actune.exporting.ollama.nodes import Node, evaluate, write_template
from actune.exporting.ollama.probes import Case, Outcome, compare
from actune.exporting.ollama.react import write_react
from actune.exporting.ollama.shape import InexpressibleError, learn_shape
from actune.exporting.ollama.tool_parser import find_call, find_marker
from actune.exporting.ollama.values import to_values
from actune.render.chat import ChatRenderer

QUOTE, _NOTHING = '"', '{{ "" }}'
_LICENSE = re.compile(r"[\w .+-]{1,80}")
_CONTEXT = 8192
"""Tokens that are asked of Ollama where the run says nothing; its own default cuts longer prompts without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoTemplate:
    """A template for Ollama: its nodes, how each case came out, and what was not expressible at all.

    `call` says that a call written by this template is found by Ollama's parser again.
    """

    nodes: tuple[Node, ...]
    outcomes: tuple[Outcome, ...]
    reasons: tuple[str, ...]
    marker: str
    call: bool

    @property
    def differing(self) -> tuple[Outcome, ...]:
        """The cases whose prompt is not that of training."""
        return tuple(one for one in self.outcomes if not one.same)


def build_template(renderer: ChatRenderer, dialect: Style) -> GoTemplate:
    """Return the Go template for a model that was trained in a dialect, compared with the prompts of training.

    Raises:
        ConfigError: the chat template is no row of blocks, so that Go's language cannot say what it does.
    """
    try:
        shape = learn_shape(renderer)
        nodes = write_native(shape) if dialect == "chat" else write_react(shape.chat, dialect)
    except InexpressibleError as reason:
        raise ConfigError(
            f"the prompts of this model cannot be written in Ollama's template language: {reason}",
            fix="use --to gguf with llama-server --jinja, or --to merged with vLLM or SGLang: they run the chat template itself",
        ) from reason
    outcomes = tuple(compare(nodes, renderer, dialect))
    marker = find_marker(nodes)
    return GoTemplate(
        nodes=tuple(nodes),
        outcomes=outcomes,
        reasons=shape.reasons if dialect == "chat" else (),
        marker=marker,
        call=any(_is_found(nodes, outcome.case, marker) for outcome in outcomes),
    )


def _is_found(nodes: Sequence[Node], case: Case, marker: str) -> bool:
    """Whether the first call of a case, as the template writes it into the history, is read back by Ollama's parser."""
    calls = next((message.tool_calls for message in case.messages if message.tool_calls), ())
    if not calls:
        return False
    place = next(number for number, message in enumerate(case.messages) if message.tool_calls)
    whole = to_values(case.messages[: place + 1], case.tools)
    start = evaluate(nodes, whole | {"Messages": whole["Messages"][:-1]})
    written = evaluate(nodes, whole)
    same = next((at for at, (a, b) in enumerate(zip(start, written, strict=False)) if a != b), len(start))
    found = find_call(written[same:], marker, [tool.name for tool in case.tools])
    return found == (calls[0].name, calls[0].parse_arguments())


def write_modelfile(
    template: GoTemplate,
    *,
    weights: str,
    stops: Sequence[str],
    dialect: Style,
    context: int | None,
    license_name: str | None,
) -> str:
    """Return the text of a Modelfile. `weights` is a path beside it, `context` the longest row of training in tokens.

    Syntax: https://docs.ollama.com/modelfile. A text between three quotes is taken as it is.
    """
    text = write_template(template.nodes)
    # A quote at an edge would be one of the three around the text.
    text = f"{_NOTHING if text.startswith(QUOTE) else ''}{text}{_NOTHING if text.endswith(QUOTE) else ''}"
    words = [*stops, *([react.STOP_WORD] if dialect != "chat" else [])]
    lines = [f"# {line}" for line in _explain(template)]
    lines += ["", f"FROM {weights}", f'TEMPLATE """{text}"""']
    lines += [f"PARAMETER stop {_quote(word)}" for word in dict.fromkeys(words) if 3 * QUOTE not in word]
    # Greedy and unpenalised, as the model is measured; change them as you like.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1.0", f"PARAMETER num_ctx {context or _CONTEXT}"]
    if license_name is not None and _LICENSE.fullmatch(license_name):  # it comes from a file of others
        lines.append(f'LICENSE """{license_name}"""')
    return "\n".join(lines) + "\n"


def _quote(word: str) -> str:
    return f'"""{word}"""' if QUOTE in word or "\n" in word else f'"{word}"'


def _explain(template: GoTemplate) -> list[str]:
    same, differing = len(template.outcomes) - len(template.differing), template.differing
    lines = [
        "Written by actune export. TEMPLATE was compared with the prompts that the model was trained on:",
        f"{same} of {len(template.outcomes)} conversations give the same text.",
    ]
    if differing:
        lines.append(
            "It differs here; Go's templates sort names, drop unknown keys of schemas and write JSON their own way:"
        )
        lines += [f"  - {one.case.name}" for one in differing]
        lines.append("Where that matters, use a server that runs the chat template itself (see README.md).")
    lines += [f"Not written: {' '.join(reason.split())}" for reason in template.reasons]
    return lines

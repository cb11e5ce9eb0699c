"""Chat templates: Jinja text -> rendered text, exactly as transformers renders it, without importing it.

A template comes with a model from outside, so it runs in Jinja's immutable sandbox.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.parser import Parser

from actune.core.errors import RenderError

Json = Mapping[str, Any]
# What a template can raise on values it does not expect; OverflowError is the sandbox's answer to a huge range.
_FAULTS = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError,
)  # fmt: skip


class _GenerationTag(jinja2.ext.Extension):
    """Accepts `{% generation %}` blocks, which some templates carry for trainers; their content is kept as it is."""

    tags = {"generation"}  # noqa: RUF012 - the name and kind that Jinja asks for

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """`dict(...)` for templates, without the class attributes of the real one."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict.fromkeys(*args, **kwargs)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,  # noqa: ANN401
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no chat template wants.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


_GLOBALS: dict[str, Any] = {"raise_exception": _raise_exception, "dict": _Dict()}


@lru_cache(maxsize=64)
def _compile(text: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(_GLOBALS)
    return environment.from_string(text)


class ChatTemplate:
    """One Jinja text with the variables that stay the same in a run."""

    def __init__(self, text: str, *, variables: Mapping[str, str], now: datetime.date | None = None) -> None:
        """Compile the template; `variables` are bos_token, eos_token and the like.

        Raises:
            RenderError: code `template-invalid` when the text is no Jinja.
        """
        self.text = text
        self._variables = dict(variables)
        self._now = now
        try:
            self._template = _compile(text)
        except jinja2.TemplateError as error:
            raise RenderError(
                f"the chat template is no valid Jinja: {error}", code="template-invalid", fix="check --chat_template"
            ) from error

    def render(self, messages: Sequence[Json], *, tools: Sequence[Json] | None, prompt: bool) -> str:
        """Return the text of messages; with `prompt`, the generation prompt for the next answer follows.

        Raises:
            RenderError: code `template-refuses` when the template raises or fails on these messages.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None if not tools else list(tools),
                documents=None,
                add_generation_prompt=prompt,
                strftime_now=self._strftime(),
                **self._variables,
            )
        except _FAULTS as error:
            raise RenderError(
                f"the chat template refuses the conversation: {error}",
                code="template-refuses",
                fix="use --dialect react for rows with tools, or give another template with --chat_template",
            ) from error

    @property
    def literals(self) -> str:
        """The literal texts of the template, joined by null characters: what it can write by itself."""
        tree = self._template.environment.parse(self.text)
        texts = [node.data for node in tree.find_all(jinja2.nodes.TemplateData)]
        texts += [node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)]
        return "\0".join(texts)

    def _strftime(self) -> Callable[[str], str]:
        day = self._now if self._now is not None else datetime.datetime.now().astimezone().date()
        return datetime.datetime.combine(day, datetime.time()).strftime

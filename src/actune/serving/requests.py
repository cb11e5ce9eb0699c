"""The body of a chat request: every parameter followed, known to be harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from actune.core.json_text import read_json
from actune.core.types import Message, ToolSpec
from actune.serving.errors import ApiError, bad_value, unsupported
from actune.serving.messages import read_messages, read_request_tools, select_tools

Mode = Literal["auto", "none", "required"]
_DEPTH = 64
MAX_CHOICES = 8
_MAX_STOPS = 16
# Parameters that say nothing about the answer.
_HARMLESS = {
    "user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
}  # fmt: skip
# Parameters that may only have the value that changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "functions": ([],),
    "function_call": (),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "top_k": (),
    "min_p": (),
    "repetition_penalty": (),
    "guided_json": (),
    "chat_template_kwargs": ({},),
}
_READ = {
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options", "stop",
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "n",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the client wants of calls: `names` are the only tools that may be called (empty: any of those shown).

    `single`: one call at most.
    """

    mode: Mode = "auto"
    names: tuple[str, ...] = ()
    single: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A checked request; None stands for what the client left to the server."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    choice: Choice = Choice()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    n: int = 1
    stream: bool = False
    include_usage: bool = False


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the object of a body: UTF-8 JSON, no key twice, no NaN, no half of a surrogate pair, not nested deeply.

    Raises:
        ApiError: 400.
    """
    try:
        value = read_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is no UTF-8 text (byte {error.start})", code="invalid_body") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_body") from None
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {str(error)[:200]}", code="invalid_body") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body has to be a JSON object", code="invalid_body")
    _check_values(value)
    return value


def _check_values(body: dict[str, Any]) -> None:
    """Refuse what no prompt can hold, whatever it stands for."""
    level: list[Any] = [body]
    for _ in range(_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not value.isascii() and _SURROGATES.intersection(value):
                raise ApiError(400, "the body holds half of a surrogate pair (\\ud800 to \\udfff)", code="invalid_body")
        level = inner
        if not level:
            return
    raise ApiError(400, f"the body is nested more than {_DEPTH} deep", code="invalid_body")


_SURROGATES = frozenset(map(chr, range(0xD800, 0xE000)))


def read_request(body: Mapping[str, Any]) -> ChatRequest:
    """Return the request that a body makes.

    Raises:
        ApiError: 400, with the parameter at fault.
    """
    _refuse_unknown(body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter", param="model", code="missing_required_parameter")
    if "messages" not in body:
        raise ApiError(400, "you must provide messages", param="messages", code="missing_required_parameter")
    tools = read_request_tools(body.get("tools"))
    shown, choice = _read_choice(body, tools)
    stream = _read_flag(body, "stream")
    return ChatRequest(
        model=model,
        messages=read_messages(body["messages"]),
        tools=shown,
        choice=choice,
        stop=_read_stop(body.get("stop")),
        max_tokens=_read_max_tokens(body),
        temperature=_read_number(body, "temperature", 0.0, 2.0),
        top_p=_read_number(body, "top_p", 0.0, 1.0, above=True),
        seed=_read_integer(body, "seed", -(2**63), 2**63 - 1),
        n=_read_integer(body, "n", 1, MAX_CHOICES) or 1,
        stream=stream,
        include_usage=_read_stream_options(body.get("stream_options"), stream=stream),
    )


def _refuse_unknown(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name in _READ or name in _HARMLESS or value is None:
            continue
        if name not in _NEUTRAL:
            raise ApiError(
                400, f"unrecognized request argument: {name[:80]}", param=name[:80], code="unknown_parameter"
            )
        allowed = _NEUTRAL[name]
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            only = f"only {' or '.join(map(repr, allowed))} is" if allowed else "leave it out"
            raise unsupported(name, f"{only}, since anything else would change the answer" if allowed else only)


def _read_choice(body: Mapping[str, Any], tools: tuple[ToolSpec, ...]) -> tuple[tuple[ToolSpec, ...], Choice]:
    """Return the tools to be shown, and what is wanted of calls."""
    single = body.get("parallel_tool_calls") is not None and not _read_flag(body, "parallel_tool_calls")
    value = body.get("tool_choice")
    if value is None or value in ("auto", "none"):
        # Without tools nothing is a call, whatever is wanted.
        return tools, Choice(mode="none" if value == "none" and tools else "auto", single=single)
    if not tools:
        raise bad_value("tool_choice", "is only allowed when tools are given")
    if value == "required":
        return tools, Choice(mode="required", single=single)
    if isinstance(value, Mapping) and value.get("type") == "function":
        function = value.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise bad_value("tool_choice.function.name", "is missing")
        select_tools(tools, [name])
        return tools, Choice(mode="required", names=(name,), single=True)
    if isinstance(value, Mapping) and value.get("type") == "allowed_tools":
        return _read_allowed(value, tools, single=single)
    raise bad_value("tool_choice", 'has to be "none", "auto", "required", a function or allowed_tools')


def _read_allowed(
    value: Mapping[str, Any], tools: tuple[ToolSpec, ...], *, single: bool
) -> tuple[tuple[ToolSpec, ...], Choice]:
    inner = value.get("allowed_tools")
    listed = inner.get("tools") if isinstance(inner, Mapping) else None
    mode = inner.get("mode") if isinstance(inner, Mapping) else None
    if not isinstance(listed, list) or not listed or mode not in ("auto", "required"):
        raise bad_value("tool_choice.allowed_tools", 'has to hold "mode" (auto or required) and "tools"')
    names = []
    for item in listed:
        function = item.get("function") if isinstance(item, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise bad_value("tool_choice.allowed_tools.tools", "has to name functions")
        names.append(name)
    # A model calls what it is shown: tools that are not allowed are not shown.
    return select_tools(tools, names), Choice(mode="required" if mode == "required" else "auto", single=single)


def _read_flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad_value(name, "has to be true or false", code="invalid_type")
    return value


def _read_stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > _MAX_STOPS:
        raise bad_value("stop", f"has to be a string or a list of at most {_MAX_STOPS}", code="invalid_type")
    if not all(isinstance(text, str) and 0 < len(text) <= 256 for text in texts):
        raise bad_value("stop", "has to hold strings of 1 to 256 characters")
    return tuple(texts)


def _read_max_tokens(body: Mapping[str, Any]) -> int | None:
    found = [_read_integer(body, name, 1, 2**31 - 1) for name in ("max_completion_tokens", "max_tokens")]
    given = {value for value in found if value is not None}
    if len(given) > 1:
        raise bad_value("max_tokens", "and max_completion_tokens are the same limit, and differ here")
    return given.pop() if given else None


def _read_number(body: Mapping[str, Any], name: str, low: float, high: float, *, above: bool = False) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad_value(name, "has to be a number", code="invalid_type")
    if not low <= value <= high or (above and value == low):
        raise bad_value(name, f"has to be {'above' if above else 'at least'} {low:g} and at most {high:g}")
    return float(value)


def _read_integer(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_value(name, "has to be an integer", code="invalid_type")
    if not low <= value <= high:
        raise bad_value(name, f"has to be at least {low} and at most {high}")
    return value


def _read_stream_options(value: object, *, stream: bool) -> bool:
    if value is None:
        return False
    if not stream:
        raise bad_value("stream_options", "is only allowed when stream is true")
    if not isinstance(value, Mapping):
        raise bad_value("stream_options", "has to be an object", code="invalid_type")
    for name in value:
        if name not in ("include_usage", "include_obfuscation"):
            raise unsupported(f"stream_options.{name}", "known is include_usage")
    if value.get("include_obfuscation"):
        raise unsupported("stream_options.include_obfuscation", "chunks are sent as they are")
    return _read_flag(value, "include_usage")

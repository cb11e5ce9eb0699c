"""A Go template for models that write calls as their chat template does."""

from __future__ import annotations

from actune.exporting.ollama.nodes import Call, If, Node, Path, Put, Range, Set, Text
from actune.exporting.ollama.shape import Calls, Chat, Shape, Style, Tools

_ROLE, _LAST_USER = "$role", "$last"
SYSTEM, TOOLS, MESSAGES = Path(".System"), Path(".Tools"), Path(".Messages")


def write_native(shape: Shape) -> list[Node]:
    """Return the template of a chat format.

    Ollama finds the marker of a call as the first text behind `if .ToolCalls`, so that stands there alone.
    """
    after_user = shape.thinking == "since-user"
    nodes: list[Node] = [*write_head(shape.chat, shape.tools)]
    if after_user:
        nodes += [Set(_LAST_USER, -1, new=True), *_mark_last_user()]
    nodes.append(Set(_ROLE, "", new=True))
    result_end = Text(shape.calls.result[2]) if shape.calls is not None else Text("")
    closing = If(Call("and", (is_role(_ROLE, "tool"), Call("ne", (Path(".Role"), "tool")))), (result_end,))
    body: list[Node] = [
        closing,
        If(
            is_role(".Role", "user"),
            (Text(shape.chat.user[0]), Put(Path(".Content")), Text(shape.chat.user[1])),
            (If(is_role(".Role", "assistant"), _write_answer(shape), _write_result(shape.calls)),),
        ),
        Set(_ROLE, Path(".Role")),
    ]
    nodes.append(Range(MESSAGES, tuple(body), key="$number", value="$message"))
    nodes.append(If(is_role(_ROLE, "tool"), (result_end,)))
    nodes.append(If(Call("ne", (Path(_ROLE), "assistant")), (Text(shape.chat.prompt),)))
    return nodes


def write_head(chat: Chat, tools: Tools | None) -> list[Node]:
    """Return what stands before the first message: system text and tools."""
    system = _write_system(chat)
    if tools is None:
        # Ollama refuses tools where no template names them; here they would be lost.
        return system
    listed = write_tools(tools)
    alone: tuple[Node, ...] = (Text(tools.alone[0]), *listed, Text(tools.alone[1]))
    begin, middle, last = (Text(text) for text in tools.with_system)
    put = Put(SYSTEM)
    both = (begin, put, middle, *listed, last) if tools.system_first else (begin, *listed, middle, put, last)
    shown: tuple[Node, ...] = (If(SYSTEM, both, alone),) if chat.system is not None else alone
    return [If(TOOLS, shown, tuple(system))]


def _write_system(chat: Chat) -> list[Node]:
    head = Text(chat.head)
    if chat.system is None:
        return [head]
    return [If(SYSTEM, (Text(chat.system[0]), Put(SYSTEM), Text(chat.system[1])), (head,))]


def write_tools(tools: Tools) -> tuple[Node, ...]:
    """Return the JSON of all tools, in the order of keys that OpenAI's form has."""
    comma, colon = tools.style
    function: list[Node] = [
        *_open(tools.style, "name"),
        Put(Path(".Function.Name"), "quoted"),
        Text(f'{comma}"description"{colon}'),
        Put(Path(".Function.Description"), "quoted"),
        Text(f'{comma}"parameters"{colon}{{"type"{colon}'),
        Put(Path(".Function.Parameters.Type"), "quoted"),
        Text(f'{comma}"properties"{colon}{{'),
        *write_properties(tools.style),
        Text("}"),
        If(
            Path(".Function.Parameters.Required"),
            (Text(f'{comma}"required"{colon}['), *write_list(".Function.Parameters.Required", comma), Text("]")),
        ),
        Text("}}"),
    ]
    if tools.wrapped:
        function = [Text(f'{{"type"{colon}"function"{comma}"function"{colon}'), *function, Text("}")]
    joined = If(Path("$tool_number"), (Text(tools.join),))
    return (Range(TOOLS, (joined, *function), key="$tool_number", value="$tool"),)


def write_properties(style: Style) -> tuple[Node, ...]:
    """Return the properties of a schema: type, description and values of each, nested ones as Go writes them."""
    comma, colon = style
    entry: tuple[Node, ...] = (
        If(Call("not", (Path("$first"),)), (Text(comma),)),
        Put(Path("$name"), "quoted"),
        Text(f'{colon}{{"type"{colon}'),
        Put(Path("$property.Type"), "json"),
        If(
            Path("$property.Description"),
            (Text(f'{comma}"description"{colon}'), Put(Path("$property.Description"), "quoted")),
        ),
        If(Path("$property.Enum"), (Text(f'{comma}"enum"{colon}['), *write_list("$property.Enum", comma), Text("]"))),
        If(Path("$property.Items"), (Text(f'{comma}"items"{colon}'), Put(Path("$property.Items"), "json"))),
        Text("}"),
        Set("$first", value=False),
    )
    over = Path(".Function.Parameters.Properties")
    return (Set("$first", value=True, new=True), Range(over, entry, key="$name", value="$property"))


def write_list(path: str, comma: str) -> tuple[Node, ...]:
    """Return the values of a list as JSON, without brackets."""
    body: tuple[Node, ...] = (If(Path("$index"), (Text(comma),)), Put(Path("$value"), "value"))
    return (Range(Path(path), body, key="$index", value="$value"),)


def write_arguments(path: str, style: Style) -> tuple[Node, ...]:
    """Return the arguments of a call as JSON, in the order of their names."""
    comma, colon = style
    entry: tuple[Node, ...] = (
        If(Call("not", (Path("$begin"),)), (Text(comma),)),
        Put(Path("$argument"), "quoted"),
        Text(colon),
        Put(Path("$given"), "value"),
        Set("$begin", value=False),
    )
    return (
        Text("{"),
        Set("$begin", value=True, new=True),
        Range(Path(path), entry, key="$argument", value="$given"),
        Text("}"),
    )


def is_role(path: str, role: str) -> Call:
    """Return the condition that a role is the given one."""
    return Call("eq", (Path(path), role))


def _open(style: Style, key: str) -> tuple[Node, ...]:
    return (Text(f'{{"{key}"{style[1]}'),)


def _mark_last_user() -> tuple[Node, ...]:
    body: tuple[Node, ...] = (If(is_role(".Role", "user"), (Set(_LAST_USER, Path("$number")),)),)
    return (Range(MESSAGES, body, key="$number", value="$message"),)


def _write_answer(shape: Shape) -> tuple[Node, ...]:
    begin, end = (Text(text) for text in shape.chat.assistant)
    nodes: list[Node] = [begin]
    if shape.thinking != "never":
        shown = (Text(shape.reasoning[0]), Put(Path(".Thinking")), Text(shape.reasoning[1]))
        if shape.thinking == "always":
            nodes.append(If(Path(".Thinking"), shown))
        else:
            nodes.append(If(Call("gt", (Path("$number"), Path(_LAST_USER))), (If(Path(".Thinking"), shown),)))
    nodes.append(Put(Path(".Content")))
    if shape.calls is None:
        return (*nodes, end)
    if shape.calls.gap:
        many = Call("gt", (Call("len", (Path(".ToolCalls"),)), 0))
        nodes.append(If(Path(".Content"), (If(many, (Text(shape.calls.gap),)),)))
    return (*nodes, If(Path(".ToolCalls"), write_calls(shape.calls), (end,)))


def write_calls(calls: Calls) -> tuple[Node, ...]:
    """Return the calls of a message with what ends them."""
    each: tuple[Node, ...] = (
        If(Call("eq", (Path("$call_number"), 0)), (Text(calls.first),), (Text(calls.join),)),
        Put(Path(".Function.Name")),
        Text(calls.middle),
        *write_arguments(".Function.Arguments", calls.style),
    )
    return (Range(Path(".ToolCalls"), each, key="$call_number", value="$call"), Text(calls.last))


def _write_result(calls: Calls | None) -> tuple[Node, ...]:
    if calls is None:
        return ()
    start = If(is_role(_ROLE, "tool"), (Text(calls.result[1]),), (Text(calls.result[0]),))
    return (If(is_role(".Role", "tool"), (start, Put(Path(".Content")))),)

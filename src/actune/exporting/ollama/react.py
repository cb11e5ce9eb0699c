"""A Go template for models that write ReAct text: the API list in the system text, steps and observations in one turn."""

from __future__ import annotations

from actune.core import api_list, react
from actune.core.types import Style as Dialect
from actune.core.types import ToolSpec
from actune.exporting.ollama.native import SYSTEM, is_role, write_arguments, write_list
from actune.exporting.ollama.nodes import Call, If, Node, Path, Put, PutNext, Range, Set, Text
from actune.exporting.ollama.shape import STYLES, Chat, InexpressibleError, cut

_ROLE, _CLOSED = "$role", "$closed"
_COMMA, _COLON = STYLES[0]  # of Python's json.dumps, which writes the list
_TOOL = ToolSpec(name="zqtool", description="zqdescribed", parameters={"type": "object", "properties": {}})


def write_react(chat: Chat, dialect: Dialect) -> list[Node]:
    """Return the template of a ReAct dialect around a chat format.

    What Ollama returns beside a call is the text before `Action:`, thought included, and what it returns of an answer is
    the whole text; so the text of a message stands here as it comes.

    Raises:
        InexpressibleError: the chat template shows no system text; the API list would stand in a question.
    """
    if chat.system is None:
        raise InexpressibleError("the chat template shows no system text, which the API list belongs to")
    begin, end = (Text(text) for text in chat.system)
    listed = write_api_list("zh" if dialect == "react_zh" else "en")
    with_tools = (begin, If(SYSTEM, (Put(SYSTEM), Text("\n\n"))), *listed, end)
    without = If(SYSTEM, (begin, Put(SYSTEM), end), (Text(chat.head),))
    past_turn, close_turn = (Text(text) for text in chat.assistant)
    # The turn that is under way begins as the prompt of its first step did, which templates may write otherwise.
    begun: tuple[Node, ...] = (past_turn,)
    if chat.prompt != chat.assistant[0]:
        begun = (If(Call("gt", (Path("$number"), Path(_CLOSED))), (Text(chat.prompt),), (past_turn,)),)
    answer: tuple[Node, ...] = (
        If(is_role(_ROLE, "tool"), (Text("\n"),), begun),
        Put(Path(".Content")),
        If(Path(".ToolCalls"), _write_call(), (close_turn,)),
    )
    observed = If(is_role(".Role", "tool"), (Text(" "), Put(Path(".Content"))))
    body: tuple[Node, ...] = (
        If(
            is_role(".Role", "user"),
            (
                If(is_role(_ROLE, "tool"), (close_turn,)),  # a turn that was left without an answer
                Text(chat.user[0]),
                Put(Path(".Content")),
                Text(chat.user[1]),
            ),
            (If(is_role(".Role", "assistant"), answer, (observed,)),),
        ),
        Set(_ROLE, Path(".Role")),
    )
    return [
        If(Path(".Tools"), with_tools, (without,)),
        *(_mark_closed() if isinstance(begun[0], If) else ()),
        Set(_ROLE, "", new=True),
        Range(Path(".Messages"), body, key="$number", value="$message"),
        If(is_role(_ROLE, "tool"), (Text("\n"),), (If(Call("ne", (Path(_ROLE), "assistant")), (Text(chat.prompt),)),)),
    ]


def _mark_closed() -> tuple[Node, ...]:
    """Return the search for the last message that no turn goes on behind: a question, or an answer."""
    # `not .ToolCalls` alone would be taken for the place of calls by Ollama.
    final = Call("and", (is_role(".Role", "assistant"), Call("not", (Path(".ToolCalls"),))))
    ends = Call("or", (is_role(".Role", "user"), final))
    body = (If(ends, (Set(_CLOSED, Path("$number")),)),)
    return (Set(_CLOSED, -1, new=True), Range(Path(".Messages"), body, key="$number", value="$message"))


def write_api_list(language: api_list.Language) -> tuple[Node, ...]:
    """Return the API list with the format to use; see `actune.core.api_list.write_system`."""
    text = api_list.write_system("", (_TOOL,), language)
    header, rest = text.split("1. zqtool: ", 1)
    label, footer = rest.split("[]", 1)
    label = label.removeprefix("zqdescribed ")
    before_names, after_names = cut(footer, "zqtool")
    tools = Path(".Tools")
    entry: tuple[Node, ...] = (
        PutNext(Path("$tool_number")),
        Text(". "),
        Put(Path(".Function.Name")),
        Text(": "),
        If(Path(".Function.Description"), (Put(Path(".Function.Description")), Text(" "))),
        Text(f"{label}["),
        Set("$first", value=True, new=True),
        Range(Path(".Function.Parameters.Properties"), _write_parameter(), key="$name", value="$property"),
        Text("]\n\n"),
    )
    blanks = before_names.removeprefix("\n\n")  # of the last entry
    name: tuple[Node, ...] = (If(Path("$tool_number"), (Text(", "),)), Put(Path(".Function.Name")))
    return (
        Text(header),
        Range(tools, entry, key="$tool_number", value="$tool"),
        Text(blanks),
        Range(tools, name, key="$tool_number", value="$tool"),
        Text(after_names),
    )


def _write_parameter() -> tuple[Node, ...]:
    required: tuple[Node, ...] = (If(Call("eq", (Path("$needed"), Path("$name"))), (Set("$required", "True"),)),)
    return (
        If(Call("not", (Path("$first"),)), (Text(_COMMA),)),
        Set("$first", value=False),
        Set("$required", "False", new=True),
        Range(Path("$tool.Function.Parameters.Required"), required, key="$index", value="$needed"),
        Text(f'{{"name"{_COLON}'),
        Put(Path("$name"), "quoted"),
        Text(f'{_COMMA}"description"{_COLON}'),
        Put(Path("$property.Description"), "quoted"),
        Text(f'{_COMMA}"required"{_COLON}"'),
        Put(Path("$required")),
        Text(f'"{_COMMA}"type"{_COLON}'),
        Put(Path("$property.Type"), "json"),
        If(
            Path("$property.Enum"),
            (Text(f'{_COMMA}"enum"{_COLON}['), *write_list("$property.Enum", _COMMA), Text("]")),
        ),
        If(Path("$property.Items"), (Text(f'{_COMMA}"items"{_COLON}'), Put(Path("$property.Items"), "json"))),
        Text("}"),
    )


def _write_call() -> tuple[Node, ...]:
    # One call a step; Ollama takes the first text here, "Action:", for the marker of a call.
    each: tuple[Node, ...] = (
        Text("Action: "),
        Put(Path(".Function.Name")),
        Text("\nAction Input: "),
        *write_arguments(".Function.Arguments", STYLES[0]),
        Text(f"\n{react.STOP_WORD}"),
    )
    return (Range(Path(".ToolCalls"), each, key="$call_number", value="$call"),)

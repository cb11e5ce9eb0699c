"""Metrics of one step of an agent: what it decided, which tool, which arguments, and what it made up.

All are functions of the stored output and gold; docs/evaluation.md states each one with its denominator.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from actune.agents.tools.arguments import find_problems
from actune.core.react import STOP_WORD
from actune.core.types import ToolCall, ToolSpec
from actune.core.values import read_value
from actune.evals.outputs import (
    GoldCall,
    Output,
    gold_calls,
    gold_mapping,
    gold_schemas,
    gold_tool_names,
    read_arguments,
    refuse,
)

# How outputs begin a call, in the ReAct text and in the chat templates of well-known models.
_CALL_BEGUN = re.compile(
    r"^[ \t]*Action(?: Input)?[ \t]*[:：]|<tool_call|<\|tool_call|<function=|<function_call|\[TOOL_CALLS\]"
    r"|<\|python_tag\|>|<\|action_start\|>|<｜tool▁calls?▁begin｜>|<\|plugin\|>",
    re.MULTILINE,
)
_OBSERVATION = re.compile(r"^[ \t>*#]*(?:observations?|观察结果|观察|觀察)[ \t*]*[:：]", re.MULTILINE | re.IGNORECASE)
# Where chat templates put what comes back from a tool: no model writes these itself.
_RESPONSE = re.compile(
    r"</?tool_(?:response|result|output)s?\b|</?function_(?:response|result)s?\b|<\|?observation\|?>"
    r"|\[TOOL_RESULTS\]|<\|(?:tool_response|tool_result)s?\b|<\|im_start\|>\s*(?:tool|function|user)\b"
    r"|<\|start_header_id\|>\s*(?:ipython|tool)\b|<｜tool▁outputs?▁begin｜>|<start_of_turn>\s*tool\b",
    re.IGNORECASE,
)
_ACTION_INPUT = re.compile(r"^Action Input:", re.MULTILINE)
_ANY_MARKER = re.compile(r"^(?:Thought|Action Input|Action|Final Answer):", re.MULTILINE)


def decision(output: Output, gold: object) -> float:
    """Return 1 when a tool is called and should be, or an answer is given and should be; 0 for an unusable output."""
    calls = gold_calls(gold)
    return float(output.error is None and bool(output.calls) == bool(calls))


def no_false_call(output: Output, gold: object) -> float:
    """Return 0 when a call was made or begun although the gold is an answer, else 1."""
    if gold_calls(gold):
        refuse("the metric is for gold answers", "calls")
    begun = output.error is not None and _CALL_BEGUN.search(output.text) is not None
    return float(not output.calls and not begun)


def tool_name(output: Output, gold: object) -> float:
    """Return the share of right names, each call matched once, of the longer of both lists of calls."""
    calls = _needed_calls(gold)
    same = Counter(call.name for call in calls) & Counter(call.name for call in output.calls)
    return same.total() / max(len(calls), len(output.calls))


def no_hallucinated_tool(output: Output, gold: object) -> float:
    """Return 1 unless a tool is called that was not offered; an output without a call invents no tool."""
    _needed_calls(gold)
    offered = gold_tool_names(gold)
    return float(all(call.name in offered for call in output.calls))


def strict_call(output: Output, gold: object) -> float:
    """Return 1 when the calls are exactly the gold ones, in any order; for a gold answer: when none is made.

    An unusable output is 0. Values are compared by `same_value`.
    """
    calls = gold_calls(gold)
    if output.error is not None or len(output.calls) != len(calls):
        return 0.0
    left = list(calls)
    for call in output.calls:
        arguments = read_arguments(call)
        found = next((one for one in left if one.name == call.name and same_value(one.arguments, arguments)), None)
        if found is None:
            return 0.0
        left.remove(found)
    return 1.0


def key_f1(output: Output, gold: object) -> float:
    """Return the F1 over argument keys: an equal value counts 1, another value 0.5, a wrong tool 0.

    Several calls are matched one to one for the best sum, divided by the longer of both lists.
    """
    calls = _needed_calls(gold)
    if not output.calls:
        return 0.0
    gains = [[_pair_f1(made, wanted) for made in output.calls] for wanted in calls]
    return best_sum(gains) / max(len(calls), len(output.calls))


def schema_valid(output: Output, gold: object) -> float:
    """Return 1 when tools are called and every call fits the JSON Schema of its tool."""
    _needed_calls(gold)
    schemas = gold_schemas(gold)
    return float(bool(output.calls) and all(_fits(call, schemas) for call in output.calls))


def no_invented_observation(output: Output, gold: object) -> float:
    """Return 1 when the model leaves it to the tools to observe: no more invented parts than the gold text has."""
    gold_calls(gold)
    kept = gold_mapping(gold)
    own = kept.get("text", kept.get("answer", ""))
    allowed = count_invented(own) if isinstance(own, str) else 0
    return float(count_invented(output.text) <= allowed)


def format_valid(output: Output, gold: object) -> float:
    """Return 1 when the output could be read as calls or as an answer, and was not cut."""
    gold_calls(gold)
    return float(output.error is None)


# --- parts ----------------------------------------------------------------------------------------------------------


def same_value(one: object, other: object) -> bool:
    """Whether two JSON values are the same for a tool.

    Texts without the blanks around them, upper and lower case kept; 5 equals 5.0; true is not 1 and "5" is not 5;
    keys in any order, lists in theirs; a missing key is not null.
    """
    stack = [(one, other)]
    while stack:
        left, right = stack.pop()
        if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
            if left is not right:
                return False
        elif isinstance(left, str) and isinstance(right, str):
            if left.strip() != right.strip():
                return False
        elif isinstance(left, (int, float)) and isinstance(right, (int, float)):
            if left != right:
                return False
        elif isinstance(left, Mapping) and isinstance(right, Mapping):
            if left.keys() != right.keys():
                return False
            stack.extend((left[key], right[key]) for key in left)
        elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            if len(left) != len(right):
                return False
            stack.extend(zip(left, right, strict=True))
        else:
            return False
    return True


def count_invented(text: str) -> int:
    """Return how many parts of an output only a tool or the loop may write."""
    body = text.rstrip()
    begun = _ACTION_INPUT.search(body)
    if begun is not None and re.search(rf"(?:^|\n){re.escape(STOP_WORD)}\Z", body):
        body = body.removesuffix(STOP_WORD)  # the stop word that ends a call; nothing follows it
    count = len(_OBSERVATION.findall(body)) + len(_RESPONSE.findall(body))
    if begun is not None and count == 0 and _goes_on(body[begun.end() :]):
        count = 1
    return count


def best_sum(gains: Sequence[Sequence[float]]) -> float:
    """Return the largest sum of a one-to-one matching of rows and columns (the Hungarian method)."""
    if len(gains) > len(gains[0]):
        gains = [list(column) for column in zip(*gains, strict=True)]
    rows, columns = len(gains), len(gains[0])
    of_row, of_column = [0.0] * (rows + 1), [0.0] * (columns + 1)
    taken = [0] * (columns + 1)  # taken[j]: the row matched to column j; rows and columns count from 1
    for row in range(1, rows + 1):
        taken[0], at = row, 0
        least, before, used = [float("inf")] * (columns + 1), [0] * (columns + 1), [False] * (columns + 1)
        while taken[at]:
            used[at] = True
            here, step, nearest = taken[at], float("inf"), 0
            for column in range(1, columns + 1):
                if used[column]:
                    continue
                slack = -gains[here - 1][column - 1] - of_row[here] - of_column[column]
                if slack < least[column]:
                    least[column], before[column] = slack, at
                if least[column] < step:
                    step, nearest = least[column], column
            for column in range(columns + 1):
                if used[column]:
                    of_row[taken[column]] += step
                    of_column[column] -= step
                else:
                    least[column] -= step
            at = nearest
        while at:
            taken[at] = taken[before[at]]
            at = before[at]
    return sum(gains[taken[column] - 1][column - 1] for column in range(1, columns + 1) if taken[column])


def _needed_calls(gold: object) -> tuple[GoldCall, ...]:
    calls = gold_calls(gold)
    if not calls:
        refuse("the metric is for gold calls", "answer")
    return calls


def _pair_f1(made: ToolCall, wanted: GoldCall) -> float:
    arguments = read_arguments(made) if made.name == wanted.name else None
    if arguments is None:
        return 0.0
    if not arguments and not wanted.arguments:
        return 1.0
    shared = [key for key in arguments if key in wanted.arguments]
    hits = sum(1.0 if same_value(arguments[key], wanted.arguments[key]) else 0.5 for key in shared)
    return 2 * hits / (len(arguments) + len(wanted.arguments))


def _fits(call: ToolCall, schemas: Mapping[str, Any]) -> bool:
    arguments = read_arguments(call)
    if arguments is None or call.name not in schemas:
        return False
    return not find_problems(ToolSpec(name=call.name, parameters=schemas[call.name]), arguments)


def _goes_on(rest: str) -> bool:
    """Whether something follows the arguments of a call, the stop word aside."""
    rest = rest.strip()
    try:
        _, end = json.JSONDecoder().raw_decode(rest)
        return bool(rest[end:].strip())
    except (ValueError, RecursionError):
        pass
    if _ANY_MARKER.search(rest):
        return True
    first, _, more = rest.partition("\n")
    return bool(more.strip()) and isinstance(read_value(first), dict)

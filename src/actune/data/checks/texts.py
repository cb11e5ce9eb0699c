"""What is wrong with texts: damaged characters, marks of other templates, answers that are none.

All texts of a row are first searched at once for a few characters; only rows that have one are looked at message by
message, so that a sound row costs next to nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from actune.core.types import Conversation, Message
from actune.data.checks.findings import Finding

# Zero-width and bidirectional controls, and control characters but tab and line ends. The joiners U+200C, U+200D and the
# marks U+200E, U+200F are left out: Persian, Hindi, emoji and right-to-left texts are written with them.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
# Scripts without spaces, whose words a zero-width space may part: Thai, Lao, Myanmar, Khmer.
_SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_CONTROLS = tuple(map(chr, (*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)))
_WIDE_CONTROLS = tuple("\u200b\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# UTF-8 read as Latin-1 or Windows-1252: what the bytes 80 to BF become there, after what a first byte becomes.
_CONTINUED = (
    "[\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)
_MOJIBAKE = re.compile(
    "|".join(
        (
            "[ÃÂ][\u00a1-\u00ba\u00bc-\u00bf]",  # a letter with an accent; quotation marks after it may be Portuguese
            f"â[\u0080€]{_CONTINUED}",  # quotation marks and dashes
            f"(?:[ã-éï]{_CONTINUED}{{2}}){{2}}",  # two ideographs; one may be French before punctuation
            "ï¿½|锟斤拷",  # U+FFFD itself, once in Latin-1 and twice in GBK
        )
    )
)
_MOJIBAKE_SIGNS = tuple("ÃÂâï锟ãäåæçèé")
# Marks of turns and calls of common chat templates.
_MARKS = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|begin_of_text|end_of_text|start_header_id|end_header_id|eot_id|eom_id"
    r"|python_tag|user|assistant|system|end|tool_call|tool_response|observation|start|message|channel|return|call)\|>"
    r"|<\uff5c[^<>]{1,40}\uff5c>|\[/?INST\]|<</?SYS>>|\[/?(?:TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\]"
    r"|<(?:start|end)_of_turn>|<bos>|<eos>|</s>\s*\Z"
)
_MARK_SIGNS = ("<|", "<\uff5c", "INST]", "SYS>>", "[TOOL_", "[AVAILABLE_TOOLS", "_of_turn>", "<bos>", "<eos>", "</s>")
_CALL_TAG = re.compile(r"<(?:tool_call|function_calls?|tool_use|invoke)\b[^>]*>|<function=")
_RESULT_TAG = re.compile(r"</?(?:tool_response|function_results?|tool_results?)>")
_OBSERVATION = re.compile(r"^Observation:", re.MULTILINE)
_TAG_SIGNS = ("<tool_", "<function", "<invoke", "</tool_", "</function", "Observation:", "<think>")
_BLANKS_LEFT = re.compile(r"\{\{\s*(?:NAME|AUTHOR|name|author|MODEL_NAME|MODEL_AUTHOR)\s*\}\}")
_NO_ANSWER = re.compile(
    r"(?:todo|tbd|fixme|placeholder|undefined|null|none|nan|\.{2,}|…+|。{2,}|lorem ipsum\b.*"
    r"|[<\[{](?:answer|response|output|insert|your)\b[a-z_ ]*[>\]}])\W*",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST_NO_ANSWER = 600
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_TOOLS_IN_PROSE = re.compile(
    r"access to the following (?:tools|functions|APIs)|(?:使用|调用)(?:以下|下列|这些)(?:的)?(?:工具|API|函数)",
    re.IGNORECASE,
)
_COPIED = 20
"""Characters from which an answer that equals the question is no greeting."""


def check_texts(conversation: Conversation) -> Iterator[Finding]:
    """Yield what is wrong with the texts of a row."""
    messages = conversation.messages
    written: list[str] = []  # by the model
    given: list[str] = []
    for message in messages:
        if message.role == "assistant":
            written.append(message.content)
            if message.reasoning:
                written.append(message.reasoning)
            written.extend(call.arguments for call in message.tool_calls)
        else:
            given.append(message.content)
    own = "\n".join(written)
    everything = own + "\n" + "\n".join(given)
    if _has_damage(own, everything):
        for index, message in enumerate(messages):
            yield from _damaged(f"messages[{index}]", message)
    if any(sign in own for sign in _TAG_SIGNS):
        for index, message in enumerate(messages):
            if _is_taught(message):
                yield from _tagged(f"messages[{index}]", message, offered=bool(conversation.tools))
    yield from _empty_talk(conversation)
    if (
        not conversation.tools
        and messages
        and messages[0].role == "system"
        and _TOOLS_IN_PROSE.search(messages[0].content)
    ):
        yield Finding(
            level="warning",
            code="tools-not-listed",
            field="messages[0].content",
            message="the system text speaks of tools that follow, but the row has no list of tools that can be read",
            fix="put the tools into the row's list, or the API list into the layout of docs/formats.md",
        )


def _is_taught(message: Message) -> bool:
    return message.role == "assistant" and message.train and message.weight > 0


def _has_damage(own: str, everything: str) -> bool:
    if (
        any(sign in everything for sign in _MARK_SIGNS)
        or any(sign in own for sign in _CONTROLS)
        or "\x00" in everything
    ):
        return True
    if everything.isascii():
        return False
    return (
        "\ufffd" in everything
        or any(sign in own for sign in _WIDE_CONTROLS)
        or any(sign in everything for sign in _MOJIBAKE_SIGNS)
    )


def _damaged(place: str, message: Message) -> Iterator[Finding]:
    own = message.role == "assistant"
    texts = {f"{place}.content": message.content, f"{place}.reasoning": message.reasoning}
    texts |= {f"{place}.tool_calls[{n}].arguments": call.arguments for n, call in enumerate(message.tool_calls)}
    for field, text in texts.items():
        if "\ufffd" in text:
            yield _fault(
                field,
                "replacement-character",
                f"{text.count(chr(0xFFFD))} characters U+FFFD, which stand for bytes that were lost",
                "read the source again in its own encoding",
            )
        if (found := _MOJIBAKE.search(text)) is not None:
            yield _fault(
                field,
                "wrong-encoding",
                f"{found.group()!r} is UTF-8 that was read in another encoding",
                "read the source again as UTF-8",
            )
        hidden = set(_INVISIBLE.findall(text)) if own else {"\x00"} & set(text)
        if "\u200b" in hidden and _SPACELESS.search(text) is not None:
            hidden.remove("\u200b")
        if hidden:
            shown = ", ".join(f"U+{ord(sign):04X}" for sign in sorted(hidden))
            yield _fault(field, "invisible-character", f"characters that nobody sees: {shown}", "remove them")
        if (found := _MARKS.search(text)) is not None:
            yield _fault(
                field,
                "template-mark",
                f"{found.group().strip()!r} is a mark of a chat template, as text",
                "remove it: the template of the model writes its own marks",
            )


def _tagged(place: str, message: Message, *, offered: bool) -> Iterator[Finding]:
    texts = ((f"{place}.content", message.content), (f"{place}.reasoning", message.reasoning))
    for field, text in texts:
        if offered and (found := _RESULT_TAG.search(text)) is not None:
            yield Finding(
                level="error",
                code="result-in-answer",
                field=field,
                message=f"{found.group()!r}: the model would learn to write the results of tools itself",
                fix="give the result as a message of its own, of the role tool",
            )
        elif offered and _OBSERVATION.search(text) is not None:
            yield _fault(
                field,
                "observation-in-answer",
                "a line begins with 'Observation:', as results of tools do",
                "give the result as a message of its own, of the role tool, or reword the line",
            )
        if (found := _CALL_TAG.search(text)) is not None:
            yield _fault(
                field,
                "call-as-text",
                f"{found.group()!r}: a call that stands in the text, not in tool_calls",
                "give the call in tool_calls, and the tools in the row's list",
            )
    if message.content.lstrip().startswith("<think>"):
        yield _fault(
            f"{place}.content",
            "reasoning-in-answer",
            "the answer begins with <think>; no template takes it for reasoning",
            "give the reasoning in reasoning_content",
        )


def _empty_talk(conversation: Conversation) -> Iterator[Finding]:
    """Yield what is wrong with whole answers."""
    asked = ""
    last = len(conversation.messages) - 1
    for index, message in enumerate(conversation.messages):
        if message.role == "user":
            asked = message.content
        if not _is_taught(message):
            continue
        field = f"messages[{index}].content"
        text = message.content
        if not (text.strip() or message.tool_calls):
            yield _fault(
                field,
                "empty-answer",
                "the assistant's answer is empty" + (", only reasoning is there" if message.reasoning else ""),
                "remove the row or write the answer",
            )
            continue
        if "{{" in text and (found := _BLANKS_LEFT.search(text)) is not None:
            yield _fault(field, "placeholder-left", f"{found.group()} was never filled in", "put the name in its place")
        if (
            len(text) <= _LONGEST_NO_ANSWER
            and not message.tool_calls
            and _NO_ANSWER.fullmatch(text.strip()) is not None
        ):
            yield _fault(
                field,
                "placeholder-answer",
                f"{text.strip()[:40]!r} is no answer",
                "write the answer, or remove the row",
            )
        if len(asked) >= _COPIED and text.strip() == asked.strip():
            yield _fault(
                field, "answer-copies-question", "the answer is the user's text", "write the answer, or remove the row"
            )
        if index == last and not message.tool_calls and (why := _cut_off(text)) is not None:
            yield _fault(field, "answer-cut-off", why, "write the answer to its end, or remove the row")


def _cut_off(text: str) -> str | None:
    """Return why a last answer seems to end too early, None for a whole one."""
    if "```" in text and len(_FENCE.findall(text)) % 2:
        return "a block of code (```) is opened and not closed"
    start = text.lstrip()
    if start.startswith(('{"', "[{", '["')) and text.rstrip()[-1] not in "]}":
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return "the answer begins as JSON and ends in the middle of it"
    return None


def _fault(field: str, code: str, message: str, fix: str) -> Finding:
    return Finding(level="warning", code=code, field=field, message=message, fix=fix)

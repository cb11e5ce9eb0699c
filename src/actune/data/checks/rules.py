"""Findings about a conversation, before any template or model: what would teach the model something wrong."""

from __future__ import annotations

from actune.core.types import Conversation
from actune.data.checks.calls import check_call
from actune.data.checks.findings import Finding, Level
from actune.data.checks.texts import check_texts
from actune.data.checks.tools import read_offer
from actune.data.checks.turns import check_turns

__all__ = ["Finding", "Level", "find_problems"]


def find_problems(conversation: Conversation) -> list[Finding]:
    """Return the findings of one conversation: repairs of the reader, tools, order of messages, calls, texts."""
    findings = [
        Finding(
            level="warning",
            code="source-repaired",
            field="system",
            message=f"the row was read after a repair: {repair}",
            fix="correct the row; the text trained on is the source's own",
        )
        for repair in conversation.repairs
    ]
    offer = read_offer(conversation.tools)
    findings += offer.findings
    findings += check_turns(conversation)
    for index, message in enumerate(conversation.messages):
        for number, call in enumerate(message.tool_calls):
            findings += check_call(f"messages[{index}].tool_calls[{number}]", call, offer)
    findings += check_texts(conversation)
    return findings

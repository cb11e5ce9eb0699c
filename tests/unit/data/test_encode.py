from __future__ import annotations

from pathlib import Path

import pytest

from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.data.encode import Encoded, encode_rows, longest
from actune.render.encoder import Encoder


@pytest.fixture(scope="module")
def encoder(tokenizer_folder: Path) -> Encoder:
    return Encoder.from_folder(tokenizer_folder)


def chat(line: int, *texts: str, dataset: str = "d") -> Conversation:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(texts))
    return Conversation(messages=messages, source=Source(file="x", line=line, dataset=dataset))


def encode(encoder: Encoder, *rows: Conversation, **options) -> Encoded:
    settings = {"max_length": -1, "truncation": "delete", "strategy": "warning"} | options
    return encode_rows(rows, encoder, **settings)


def test_counts_are_exact_and_order_is_kept(encoder: Encoder):
    rows = [chat(1, "a", "b"), chat(2, "c", "d e f"), chat(3, "g", "h", dataset="other")]
    result = encode(encoder, *rows)
    assert [tree.source.line for tree in result.trees] == [1, 2, 3]
    assert (result.tallies["d"].rows, result.tallies["other"].rows) == (2, 1)
    assert result.tallies["d"].tokens == sum(len(tree) for tree in result.trees[:2])
    assert result.tallies["d"].supervised == sum(len(tree.target_ids) for tree in result.trees[:2])


def test_row_drawn_twice_is_trained_twice(encoder: Encoder):
    row = chat(1, "a", "b")
    result = encode(encoder, row, row)
    assert len(result.trees) == result.tallies["d"].rows == 2


def test_over_long_rows_are_left_out_and_listed(encoder: Encoder):
    rows = [chat(1, "a", "b"), chat(2, "a", "b " * 200)]
    limit = longest(encode(encoder, rows[0]).trees[0])
    result = encode(encoder, *rows, max_length=limit)
    assert [tree.source.line for tree in result.trees] == [1]
    assert [(item.source.line, item.code) for item in result.quarantined] == [(2, "over-long")]
    assert (result.tallies["d"].over_long, result.tallies["d"].quarantined) == (1, 0)
    with pytest.raises(DataError, match="more than max_length"):
        encode(encoder, *rows, max_length=limit, truncation="error")


def test_oldest_whole_turns_are_dropped(encoder: Encoder):
    system = Message(role="system", content="Be brief.")
    body = chat(1, "first " * 30, "one", "second", "two", "third", "three")
    row = Conversation(messages=(system, *body.messages), source=body.source)
    kept = Conversation(messages=(system, *body.messages[2:]), source=body.source)
    limit = longest(encode(encoder, kept).trees[0])
    result = encode(encoder, row, max_length=limit, truncation="turns")
    text = encoder.renderer.tokenizer.decode(result.trees[0].input_ids.tolist())
    assert result.tallies["d"].shortened == 1
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nsecond")
    hopeless = encode(encoder, chat(1, "a", "b " * 200), max_length=20, truncation="turns")
    assert [item.code for item in hopeless.quarantined] == ["over-long"]


TOOL = ToolSpec(name="f", description="F.", parameters={"type": "object"})


def agent(name: str, arguments: str = "{}") -> Conversation:
    call = ToolCall(name=name, arguments=arguments)
    messages = (
        Message(role="user", content="u"),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="o"),
        Message(role="assistant", content="a"),
    )
    return Conversation(messages=messages, tools=(TOOL,), style="react", source=Source(file="x", line=7, dataset="d"))


def test_strategies_decide_over_findings(encoder: Encoder):
    wrong_tool, literal = agent("g"), agent("f", "{'a': 1}")
    assert [q.code for q in encode(encoder, wrong_tool).quarantined] == ["unknown-tool"]
    kept = encode(encoder, literal)
    assert (len(kept.trees), kept.tallies["d"].warnings) == (1, 1)
    assert [q.code for q in encode(encoder, literal, strategy="discard").quarantined] == ["arguments-python-literal"]
    assert len(encode(encoder, wrong_tool, strategy="none").trees) == 1
    with pytest.raises(DataError, match="x:7"):
        encode(encoder, wrong_tool, strategy="error")


def test_row_that_cannot_be_written_is_listed_with_its_reason(encoder: Encoder):
    two = Conversation(
        messages=(
            Message(role="user", content="u"),
            Message(role="assistant", tool_calls=(ToolCall(name="f", arguments="{}"),) * 2),
        ),
        tools=(TOOL,),
        style="react",
        source=Source(file="x", line=3, dataset="d"),
    )
    result = encode(encoder, two)
    assert [(q.source.line, q.code) for q in result.quarantined] == [(3, "react-parallel-calls")]
    assert result.tallies["d"].quarantined == 1

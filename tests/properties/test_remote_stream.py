"""However a stream is cut, and whatever it holds, it means the same or is an error of one kind."""

from __future__ import annotations

import contextlib
import itertools
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from actune.agents.engines.remote_chat import _Answer
from actune.agents.engines.remote_http import ServerError, find_error
from actune.agents.engines.remote_sse import BadStreamError, Events

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=6), JSON, max_size=4)


def cut(data, places: list[int]):
    borders = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(borders)]


@settings(max_examples=150, deadline=None)
@given(
    objects=st.lists(OBJECTS, max_size=4),
    line_end=st.sampled_from(["\n", "\r\n"]),
    comments=st.lists(st.sampled_from([": ping", "event: x", "id: 7", "retry: 1", "other"]), max_size=3),
    places=st.lists(st.integers(0, 10_000), max_size=12),
    done=st.booleans(),
)
def test_the_way_a_stream_is_cut_makes_no_difference(objects, line_end, comments, places, done):
    lines: list[str] = []
    for number, value in enumerate(objects):
        lines += [*comments[number % 3 :], f"data: {json.dumps(value, ensure_ascii=False)}", ""]
    lines += ["data: [DONE]", "", 'data: {"after": 1}', ""] if done else []
    data = "".join(line + line_end for line in lines).encode("utf-8", "surrogatepass")
    events = Events()
    found = [value for piece in cut(data, places) for value in events.feed(piece)] + events.finish()
    assert json.dumps(found) == json.dumps(objects)
    assert events.done == done


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from([b"data: ", b"\n\n", b"{", b'"a": ', b"1}", b"[DONE]"]), max_size=12
    )
)
def test_any_bytes_are_objects_or_a_bad_stream(pieces):
    events = Events()
    with contextlib.suppress(BadStreamError):
        for piece in pieces:
            assert all(isinstance(value, dict) for value in events.feed(piece))
        assert all(isinstance(value, dict) for value in events.finish())


MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "content": st.text(max_size=12),
        "reasoning": st.text(max_size=12),
        "tool_calls": st.lists(
            st.fixed_dictionaries({"name": st.text("ab_", min_size=1, max_size=5), "arguments": st.text(max_size=14)}),
            max_size=3,
        ),
    },
)


@settings(max_examples=150, deadline=None)
@given(message=MESSAGES, places=st.lists(st.integers(0, 100), max_size=6))
def test_a_message_in_pieces_is_the_message(message, places):
    deltas = [{key: part} for key in ("reasoning", "content") for part in cut(message.get(key, ""), places)]
    calls = message.get("tool_calls", [])
    for index, call in enumerate(calls):
        parts = cut(call["arguments"], places)
        deltas.append({"tool_calls": [{"index": index, "id": f"c{index}", "function": {"name": call["name"]}}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": part}}]} for part in parts]
    heard: list[str] = []
    answer = _Answer(heard.append)
    for delta in deltas:
        answer.take({"choices": [{"delta": delta, "finish_reason": None}]})
    answer.take({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    read, mended = answer.message()
    assert (read.content, read.reasoning) == (message.get("content", ""), message.get("reasoning", ""))
    assert "".join(heard) == read.content
    assert [(call.name, call.arguments, call.id) for call in read.tool_calls] == [
        (call["name"], call["arguments"] if call["arguments"].strip() else "{}", f"c{index}")
        for index, call in enumerate(calls)
    ]
    assert list(mended) == [index for index, call in enumerate(calls) if not call["arguments"].strip()]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        OBJECTS
        | st.fixed_dictionaries({"choices": JSON})
        | st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"delta": OBJECTS}), max_size=2)})
        | st.fixed_dictionaries(
            {
                "choices": st.lists(
                    st.fixed_dictionaries({"delta": st.fixed_dictionaries({"tool_calls": JSON})}), min_size=1
                )
            }
        )
        | st.fixed_dictionaries(
            {
                "choices": st.just([]).map(lambda _: [{}]),
                "usage": JSON,
            }
        ),
        max_size=4,
    )
)
def test_no_object_breaks_the_reading_of_a_message(chunks):
    answer = _Answer(lambda piece: None)
    with contextlib.suppress(ServerError):
        for chunk in chunks:
            answer.take(chunk)
        read, _ = answer.message()
        assert isinstance(read.content, str)
        assert all(isinstance(call.name, str) and isinstance(call.arguments, str) for call in read.tool_calls)
        assert isinstance(answer.tokens, int)


@settings(max_examples=150, deadline=None)
@given(JSON | st.fixed_dictionaries({"error": JSON}) | st.fixed_dictionaries({"detail": JSON}))
def test_any_error_has_words(value):
    said = find_error(value)
    assert said is None or (len(said) <= 600 and not {"\n", "\r", "\x1b", "\x00"} & set(said))

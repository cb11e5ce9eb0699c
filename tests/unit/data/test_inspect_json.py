"""Rows as JSON for the page's script: exactly the texts, ids and weights that are trained on, and nothing that is HTML."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace as changed
from pathlib import Path
from types import SimpleNamespace

import pytest

from actune.cli.main import main
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.data.inspect import row_json as inspect_json
from actune.data.inspect.pool import Pool, Text, Tokens, as_json
from actune.data.inspect.row_json import Chunks, RowWriter
from actune.data.inspect.rows import Examined, count_examined, examine
from actune.data.inspect.visible import Visible
from actune.data.reading.sources import Quarantined, load_conversations
from actune.render.encoder import Encoder
from actune.render.tokenizer import strip_marks
from actune.render.tree import TrainingSequence, build_tree

SOURCE = Source(file="rows.jsonl", line=7)
HOSTILE = "</script><img src=x onerror=alert(1)>\u202eabc\u202c\u200b\x00 <!-- ]]> \u2028 & <b>\ttab  \n\nend <|im_end|> 杭州 é😀"
USER, ANSWER = Message(role="user", content="What is it?"), Message(role="assistant", content="It is sunny today.")
TOOL = ToolSpec(name="f", description=HOSTILE, parameters={"type": "object", "properties": {}})
CALL = Message(role="assistant", tool_calls=(ToolCall(name="f", arguments='{"x": "杭州"}', id="a"),))
RESULT = Message(role="tool", content=HOSTILE, tool_call_id="a")
UNSEEN = "[\x00-\x08\x0b-\x1f\u200b\u2028\u202a-\u202e\ufeff\U000f0000\U000f0001]"


def row(*messages: Message, **extra) -> Conversation:
    return Conversation(**({"messages": messages, "source": SOURCE} | extra))


def writer_of(encoder: Encoder, longest: int | None = None, pool: Pool | None = None) -> RowWriter:
    templates = encoder.renderer.templates
    pattern = encoder.renderer.tokenizer.control_pattern(templates.plain + templates.tools)
    return RowWriter(encoder, Visible(pattern, longest=longest), pool or Pool())


class Reader:
    """Reads what the script reads, the same way."""

    def __init__(self, pool: Pool, *values: object) -> None:
        self.values = [json.loads(pool.write(value)) for value in values]
        self.vocabulary = json.loads(pool.write(pool.vocabulary()))
        self.pool = json.loads(as_json(pool.texts))

    def plain(self, text) -> str:
        """Return the text that the script shows, without unseen characters and what is left out."""
        return plain(
            [self.pool[run] if isinstance(run, int) else run for run in (text if isinstance(text, list) else [text])]
        )

    def ids(self, part) -> list[int]:
        """Return the ids of a part."""
        return [self.vocabulary["ids"][number] for number in self.numbers(part)]

    def numbers(self, part) -> list[int]:
        digits, width = self.vocabulary["digits"], self.vocabulary["width"]
        written = [part["ids"][at : at + width] for at in range(0, len(part["ids"]), width)]
        return [
            sum(digits.index(sign) * len(digits) ** (width - 1 - at) for at, sign in enumerate(one)) for one in written
        ]


def shown_by(encoder: Encoder, examined: Examined, longest: int | None = None) -> tuple[dict, Reader]:
    """Return a row as the script reads it."""
    pool = Pool()
    reader = Reader(pool, writer_of(encoder, longest, pool).row(3, examined))
    return reader.values[0], reader


def plain(runs) -> str:
    signs = {"u": "", "x": "", "n": "\n", "t": "\t"}
    return "".join(
        run if isinstance(run, str) else signs.get(run[0], run[1]) * (run[2] if run[0] in "nt" else 1) for run in runs
    )


def seen(text: str) -> str:
    return re.sub(UNSEEN, "", strip_marks(text))


def rows() -> list[Conversation]:
    return [
        row(
            Message(role="system", content=HOSTILE), changed(USER, content=HOSTILE), changed(CALL, content="I look. 杭州 é😀"),
            RESULT, changed(ANSWER, weight=0.5), USER, changed(ANSWER, train=False), USER, changed(ANSWER, weight=2.0), tools=(TOOL,),
        ),
        row(USER, ANSWER, USER, ANSWER),
    ]  # fmt: skip


def thoughts() -> Conversation:
    return row(
        USER, changed(ANSWER, reasoning="hm 杭"), USER, changed(ANSWER, reasoning="so", weight=3.0), USER, ANSWER
    )


def check_exact(encoder: Encoder, conversation: Conversation) -> dict:
    """Check that texts, ids and weights of a written row are those of its turns and its tree."""
    examined = examine(encoder, conversation)
    shown, reader = shown_by(encoder, examined)
    read = reader.plain
    assert (shown["n"], shown["at"], len(shown["turns"])) == (3, "rows.jsonl:7", len(examined.turns))
    ids, weights, texts = [], [], []
    for run in shown["runs"]:
        assert (run["start"], run["size"]) == (len(ids), sum(len(reader.ids(part)) for part in run["parts"]))
        for part in run["parts"]:
            others = part.get("others", {})
            ids += reader.ids(part)
            weights += [weight for size, weight in part["weights"] for _ in range(size)]
            usual = reader.vocabulary["texts"]
            texts += [read(others.get(str(at), usual[number])) for at, number in enumerate(reader.numbers(part))]
    assert ids == examined.tree.input_ids.tolist()
    assert sum(weights) == pytest.approx(float(examined.tree.target_weights.sum()))
    for turn, view, encoded in zip(examined.turns, shown["turns"], examined.encoded, strict=True):
        chunks = [
            "".join(read(shown["chunks"][one]) for one in view[part]) for part in ("before", "fresh", "completion")
        ]
        assert chunks[0] + chunks[1] == seen(turn.prompt)
        assert chunks[2] == seen(turn.completion)
        places = [
            place
            for run in view["path"]
            for place in range(shown["runs"][run]["start"], shown["runs"][run]["start"] + shown["runs"][run]["size"])
        ]
        places = places[: len(encoded.ids)]
        assert [ids[place] for place in places] == list(encoded.ids)
        assert view["ids"] == [encoded.start, len(encoded.ids)]
        assert [weights[place] for place in places[encoded.start :]] == [encoded.weight] * (
            len(encoded.ids) - encoded.start
        )
        assert view["weights"] == [[encoded.weight, len(encoded.ids) - encoded.start]]
        assert "".join(texts[place] for place in places[encoded.start :]) == seen(turn.completion)
        assert "note" not in view
        assert turn.completion.endswith(view["stop"])
        assert view["stop"]
    return shown


@pytest.mark.parametrize("index", [0, 1])
def test_texts_ids_and_weights_are_those_of_training(tools_folder: Path, index: int):
    shown = check_exact(Encoder.from_folder(tools_folder), rows()[index])
    assert len(shown["runs"]) == 1
    assert [turn["kin"]["place"] for turn in shown["turns"][1:]] == ["after"] * (len(shown["turns"]) - 1)


def test_they_are_so_where_the_tree_branches(thinking_folder: Path):
    shown = check_exact(Encoder.from_folder(thinking_folder), thoughts())
    assert len(shown["runs"]) > 2
    assert shown["turns"][1]["rewritten"]
    assert shown["turns"][1]["kin"]["place"] in ("target", "target_begin")
    assert all(run["after"] < index for index, run in enumerate(shown["runs"]))


@pytest.mark.shared
def test_they_are_so_for_real_rows(shared: Path):
    loaded = load_conversations(str(shared / "data/agent/reason_tool_use_demo_50.jsonl"), format_name=None, seed=0)
    encoder = Encoder.from_folder(shared / "assets/tokenizers/qwen3", allow_loss=["reasoning"])
    rows = [changed(one, source=SOURCE) for one in loaded.conversations[:6]]
    assert any(len(check_exact(encoder, one)["runs"]) > 1 for one in rows)
    blank = Encoder.from_folder(shared / "assets/tokenizers/mistral-v3")
    shown, _ = shown_by(blank, examine(blank, row(USER, ANSWER)))
    assert [turn["note"] for turn in shown["turns"]] == ["blank"]


def test_what_turns_have_in_common_is_cut_where_they_part():
    texts = Chunks()
    turns = [("abc", "def", 0, 0), ("abcdXY", "z", 0, 4), ("abcdX!", "", 1, 5), ("abcdef", "g", 0, 6)]
    for turn in turns:
        texts.add(*turn)
    for (prompt, completion, _, _), parts in zip(turns, texts.layout(), strict=True):
        before, fresh, end = ("".join(texts.texts[one] for one in part) for part in parts)
        assert (before + fresh, end) == (prompt, completion)
    assert "".join(texts.texts[one] for one in texts.layout()[1][0]) == "abcd"
    assert sum(map(len, texts.texts)) == len("abcdefXYz!g")


def test_a_stop_word_is_the_stop_of_a_step(tokenizer_folder: Path):
    react = row(USER, CALL, changed(RESULT, content="sunny"), ANSWER, tools=(changed(TOOL, description="d"),))
    shown = check_exact(Encoder.from_folder(tokenizer_folder, dialect="react"), react)
    assert [turn["stop"] for turn in shown["turns"]] == ["Observation:", "<|im_end|>"]


def test_targets_met_twice_show_the_weight_that_they_have_in_training(tools_folder: Path):
    """The weight of a token is the tree's, whatever the turns say."""
    encoder = Encoder.from_folder(tools_folder)
    examined = examine(encoder, row(USER, ANSWER))
    (turn,) = examined.encoded
    twice = [TrainingSequence(ids=list(turn.ids), start=turn.start, weights=[0.75] * (len(turn.ids) - turn.start))] * 2
    shown, _ = shown_by(encoder, changed(examined, tree=build_tree(twice, SOURCE)))
    assert shown["turns"][0]["weights"] == [[1.5, len(turn.ids) - turn.start]]


def test_nothing_in_the_json_is_html_or_unseen(tools_folder: Path):
    encoder, pool = Encoder.from_folder(tools_folder), Pool()
    writer = writer_of(encoder, pool=pool)
    examined = examine(encoder, changed(rows()[0], source=Source(file=HOSTILE, line=1)))
    values = [writer.row(1, examined), writer.entry(1, examined, count_examined(examined), False)]
    written = [*map(pool.write, values), pool.write(pool.vocabulary()), as_json(pool.texts)]
    for text in written:
        assert not re.search(r"[<>&]", text)
        assert not re.search(UNSEEN, json.dumps(json.loads(text), ensure_ascii=False))
    assert "U+202E" in written[0] + written[-1]


def test_a_text_with_a_lone_surrogate_can_be_written(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    shown, reader = shown_by(encoder, examine(encoder, Quarantined(source=SOURCE, code="c", message="a\ud800b")))
    assert json.dumps(shown, ensure_ascii=False).encode()
    assert reader.plain(shown["problems"][0]["message"]) == "ab"
    assert "messages" not in shown


def test_texts_that_rows_share_are_stored_once(tools_folder: Path):
    encoder, pool = Encoder.from_folder(tools_folder), Pool()
    writer, line = (
        writer_of(encoder, pool=pool),
        "a line of text that several rows hold, and that is long enough, 杭州.\n",
    )
    rows = [row(Message(role="system", content=f"{line}own {n}\n{line}"), USER, ANSWER) for n in range(3)]
    reader = Reader(pool, *(writer.row(n, examine(encoder, one)) for n, one in enumerate(rows)))
    assert reader.pool == [line]
    for one, shown in zip(rows, reader.values, strict=True):
        assert shown["messages"][0]["content"][0] == shown["messages"][0]["content"][2] == 0
        assert reader.plain(shown["messages"][0]["content"]) == one.messages[0].content


@pytest.mark.parametrize("count", [3, 9_000])
def test_token_numbers_are_written_with_as_many_digits_as_they_need(count: int):
    pool = Pool()
    numbers = [pool.token(1_000_000 + token, Text(["x"]))[0] for token in range(count)]
    reader = Reader(pool, {"ids": Tokens(numbers)})
    assert reader.vocabulary["width"] == (2 if count < 8_000 else 3)
    assert reader.ids(reader.values[0]) == [1_000_000 + token for token in range(count)]


def test_the_conversation_shows_calls_with_their_arguments_as_they_are(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)

    def shown(arguments: str):
        call = changed(CALL, tool_calls=(ToolCall(name="f", arguments=arguments),))
        written, reader = shown_by(encoder, examine(encoder, row(USER, call, tools=(TOOL,))))
        return reader.plain(written["messages"][1]["calls"][0]["arguments"])

    assert shown('{"x": "杭州", "y": [1]}') == '{\n  "x": "杭州",\n  "y": [\n    1\n  ]\n}'
    for text in ("{'x': 1}", '{"x": 1, "x": 2}', '{"x": 1.00}', '{"x": "\\u676d"}', "no json"):
        assert shown(text) == text


def test_long_rows_show_what_is_trained_token_by_token(tools_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspect_json, "MOST_TOKENS", 50)
    encoder = Encoder.from_folder(tools_folder)
    long = row(Message(role="user", content="word " * 5_000), changed(ANSWER, content="so " * 100))
    examined = examine(encoder, long)
    shown, reader = shown_by(encoder, examined)
    (run,) = shown["runs"]
    whole = [part for part in run["parts"] if "ids" not in part]
    assert [part["weights"][0][1] for part in whole] == [0, 1]
    assert sum(len(reader.ids(part)) if "ids" in part else part["count"] for part in run["parts"]) == len(examined.tree)
    trained = [part for part in run["parts"] if part["weights"][0][1]]
    assert len(reader.ids(trained[0])) == 50
    decoded = encoder.renderer.tokenizer.decode(examined.tree.input_ids.tolist())
    assert reader.plain(whole[0]["text"]) in decoded
    assert len(reader.plain(whole[0]["text"])) > 10_000


def test_texts_that_are_too_long_show_both_ends_and_say_so(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    long = row(changed(USER, content="a" * 500 + "b" * 500), ANSWER)
    shown, _ = shown_by(encoder, examine(encoder, long), longest=100)
    assert shown["messages"][0]["content"] == ["a" * 50, ["x", "", 900], "b" * 50]


def test_the_list_says_what_rows_are_filtered_by(thinking_folder: Path):
    encoder = Encoder.from_folder(thinking_folder)
    examined = examine(encoder, thoughts())
    entry = writer_of(encoder).entry(4, examined, count_examined(examined), True)
    assert (entry["n"], entry["branches"], entry["over"], entry["refused"], entry["turns"]) == (4, True, True, False, 3)
    assert entry["longest"] < entry["tokens"] == len(examined.tree)
    refused = examine(encoder, row(USER))
    entry = writer_of(encoder).entry(1, refused, count_examined(refused), False)
    assert (entry["refused"], entry["preview"], entry["errors"] > 0) == (True, "What is it?", True)


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_page_of_many_rows_holds_those_with_problems_and_statistics_over_all(
    tools_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    good = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "fine " * n}]}
        for n in range(1, 40)
    ]
    good[30] = {"messages": [{"role": "user", "content": "alone"}]}
    data, more, out = tmp_path / "rows.jsonl", tmp_path / "more.jsonl", tmp_path / "page.html"
    data.write_text("".join(json.dumps(one) + "\n" for one in good), encoding="utf-8")
    more.write_text(json.dumps(good[0]) + "\nno json\n", encoding="utf-8")
    line = ["inspect", "--model", str(tools_folder), "--data", str(data), str(more), "--html", str(out)]
    assert main([*line, "--limit", "8", "--max_length", "40"]) == 1
    text = out.read_text(encoding="utf-8")
    numbers = [int(one) for one in re.findall(r'id="data-(\d+)"', text)]
    assert len(numbers) == 8
    assert {31, 41} <= set(numbers)
    entries = json.loads(re.search(r'id="entries">(.*?)</script>', text)[1])
    assert [entry["n"] for entry in entries["rows"]] == numbers
    assert any(entry["over"] for entry in entries["rows"])
    assert 'id="numbers"' in text
    assert "All 41 rows in numbers" in text
    assert "8 of 41 on this page" in text
    assert text.count('<svg class="chart"') == 4
    assert "max_length 40" in text
    assert "8 of 41 rows written" in " ".join(capsys.readouterr().err.split())
    assert main([*line, "--row", "40"]) == 0
    assert 'id="numbers"' not in out.read_text(encoding="utf-8")
    assert main([*line, "--limit", "0"]) == 2
    assert main([*line, "--row", "42"]) == 2
    assert main(line[:-2]) == 0
    captured = capsys.readouterr()
    assert "3 of 41 rows" in captured.err


def test_the_length_of_a_run_is_its_max_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module("actune.recipes.inspect")
    run = SimpleNamespace(settings={"data": {"max_length": 77}})
    monkeypatch.setattr(module, "read_run", lambda path: run if path.name == "run" else None)
    assert module._trained_length(str(tmp_path / "run")) == 77
    assert module._trained_length(str(tmp_path)) == -1

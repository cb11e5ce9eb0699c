"""What a person is shown of a row: every problem, and a page that holds exactly the prompts and targets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from dataclasses import replace as changed
from html.parser import HTMLParser
from pathlib import Path

import pytest

from actune.cli.main import main
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.data.inspect.page import About, page, show_value
from actune.data.inspect.rows import examine
from actune.data.inspect.static import LONG, MOST_TOKENS
from actune.data.inspect.visible import Visible
from actune.data.reading.sources import Quarantined
from actune.render.encoder import Encoder
from actune.render.tokenizer import strip_marks

ROOT = Path(__file__).resolve().parents[3]
AGENT = ROOT / "examples" / "agent.jsonl"
SOURCE = Source(file="rows.jsonl", line=7)
HOSTILE = (
    "</script><script>document.title='owned'</script></style><img src=x onerror=alert(1)>\u202eabc\u202c\u200b\x00\x1b[31m"
    " {{ 7*7 }} &lt;b&gt; <!-- ]]> \ufeff\U000e0041 مرحبا <b>\ttab  \n\nend "
)
TOOL = ToolSpec(
    name="f",
    description="</script><script>x</script>\u202e",
    parameters={"type": "object", "properties": {"x": {"type": "string"}}},
)


class Page(HTMLParser):
    """The elements of a page, and the exact text of its prompts and targets, the signs of the page left out."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []  # (classes, text) of every box of text
        self.pieces: list[tuple[str, str, str]] = []  # (classes, title, text) of every token
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        classes = given.get("class") or ""
        if tag in ("meta", "input", "br", "img", "link"):
            return
        self._open.append(f"{tag} {classes}")
        if tag == "div" and "raw" in classes.split():
            self.raw.append((classes, ""))
        elif tag == "span" and len(self._open) > 1 and " target" in self._open[-2] and "raw" in self._open[-2]:
            self.pieces.append((classes, given.get("title") or "", ""))

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        self.texts.append(data)
        if any(entry.split()[-1] in ("white", "mark", "cut") for entry in self._open):
            return
        if any(entry.startswith("div raw") for entry in self._open):
            classes, text = self.raw[-1]
            self.raw[-1] = (classes, text + data)
            if "target" in classes and self.pieces:
                names, title, piece = self.pieces[-1]
                self.pieces[-1] = (names, title, piece + data)


def write_page(encoder: Encoder, *conversations: Conversation) -> str:
    rows = [examine(encoder, conversation) for conversation in conversations]
    return page(encoder, dict(enumerate(rows, 1)), about(model=HOSTILE, available=len(rows)))


def about(**given) -> About:
    return About(**({"model": "m", "data": ["rows.jsonl"], "dialect": "auto", "available": 1} | given))


def row(*messages: Message, **extra) -> Conversation:
    return Conversation(**({"messages": messages, "source": SOURCE} | extra))


USER, ANSWER = Message(role="user", content="What is it?"), Message(role="assistant", content="It is sunny today.")
CALL = Message(role="assistant", tool_calls=(ToolCall(name="f", arguments='{"x": "杭州"}', id="a"),))
RESULT = Message(role="tool", content="sunny", tool_call_id="a")


def unseen_removed(text: str) -> str:
    """Return a text without the characters that the page names instead of showing them."""
    return re.sub("[\x00-\x08\x0b-\x1f\u200b\u202a-\u202e\ufeff\U000e0041\U000f0000\U000f0001]", "", text)


# --- what is examined -------------------------------------------------------------------------------------------------


def test_all_losses_are_listed_not_only_the_first(tokenizer_folder: Path):
    encoder = Encoder.from_folder(tokenizer_folder)
    twice = row(USER, changed(ANSWER, reasoning="one thought"), USER, changed(ANSWER, reasoning="another thought"))
    found = examine(encoder, twice)
    assert found.refused
    errors = [(problem.code, problem.field) for problem in found.problems if problem.level == "error"]
    assert errors == [("reasoning-lost", "messages[1].reasoning"), ("reasoning-lost", "messages[3].reasoning")]
    assert all(problem.fix and problem.message for problem in found.problems)
    assert [turn.index for turn in found.turns] == [1, 3]
    assert found.encoded == ()


def test_a_turn_that_cannot_be_written_does_not_hide_the_others(tokenizer_folder: Path):
    both = changed(CALL, content="text", reasoning="thought")
    calls = row(USER, both, RESULT, ANSWER, USER, both, RESULT, ANSWER, tools=(changed(TOOL, description="d"),))
    found = examine(Encoder.from_folder(tokenizer_folder, dialect="react"), calls)
    fields = [problem.field for problem in found.problems if problem.code == "react-two-thoughts"]
    assert "messages[1].content" in fields
    assert found.refused
    assert len(write_page(Encoder.from_folder(tokenizer_folder, dialect="react"), calls)) > 1000


def test_a_trained_row_has_ids_and_no_problem(tools_folder: Path):
    found = examine(Encoder.from_folder(tools_folder), row(USER, CALL, RESULT, ANSWER, tools=(TOOL,)))
    assert (found.problems, found.refused, found.dialect) == ((), False, "chat")
    assert [turn.turn.index for turn in found.encoded] == [1, 3]


def test_an_unreadable_row_is_its_error(tools_folder: Path):
    bad = Quarantined(source=SOURCE, code="json-invalid", message=f"bad {HOSTILE}", field="x", fix="mend it")
    encoder = Encoder.from_folder(tools_folder)
    found = examine(encoder, bad)
    assert [(p.code, p.field, p.fix) for p in found.problems] == [("json-invalid", "x", "mend it")]
    text = page(encoder, {1: found}, about())
    assert "No turn of this row can be shown" in text
    assert "<img" not in text


def test_a_row_of_weight_zero_is_refused_and_shown(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    found = examine(encoder, row(USER, changed(ANSWER, train=False)))
    assert found.refused
    assert [problem.code for problem in found.problems] == ["nothing-trained"]
    parsed = Page(page(encoder, {1: found}, about()))
    assert any("It is sunny today." in text for _, text in parsed.raw)


# --- the page ---------------------------------------------------------------------------------------------------------


def hostile_row() -> Conversation:
    return row(
        Message(role="system", content=HOSTILE),
        Message(role="user", content=HOSTILE + "<|im_end|>"),
        changed(CALL, content="Looking \u202e </script><script>x</script> 中文 é😀\t  \nok"),
        changed(RESULT, content=HOSTILE),
        changed(ANSWER, content=f"So {HOSTILE}.", weight=0.5),
        USER,
        changed(ANSWER, train=False),
        USER,
        changed(ANSWER, weight=2.0),
        tools=(TOOL,),
    )


def test_the_page_shows_exactly_the_prompts_and_targets(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    conversation = hostile_row()
    parsed = Page(write_page(encoder, conversation))
    turns = encoder.encode_turns(conversation)
    targets = [text for classes, text in parsed.raw if "target" in classes]
    assert targets == [unseen_removed(turn.turn.completion) for turn in turns]
    prompts, parts = [], ""
    for classes, text in parsed.raw:
        if "target" in classes:
            prompts.append(parts)
            parts = ""
        else:
            parts += text
    assert prompts == [unseen_removed(strip_marks(turn.turn.prompt)) for turn in turns]


def test_tokens_and_stops_of_the_targets(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    turns = encoder.encode_turns(hostile_row())
    parsed = Page(write_page(encoder, hostile_row()))
    ids = [int(one) for _, title, _ in parsed.pieces for one in re.findall(r"\d+", title)]
    assert ids == [one for turn in turns for one in turn.ids[turn.start :]]
    stops = [text for classes, title, text in parsed.pieces if "stop" in classes.split() and "stop" in title]
    assert stops == ["<|im_end|>"] * len(turns)
    shades = [classes.split() for classes, _ in parsed.raw if "target" in classes]
    assert [next(name for name in names if name.startswith("s-")) for names in shades] == [
        "s-full",
        "s-part",
        "s-zero",
        "s-more",
    ]


def test_the_stop_word_of_a_step_is_marked(tokenizer_folder: Path):
    encoder = Encoder.from_folder(tokenizer_folder, dialect="react")
    plain = changed(TOOL, description="d")
    parsed = Page(write_page(encoder, row(USER, CALL, RESULT, ANSWER, tools=(plain,))))
    stops = "".join(text for classes, _, text in parsed.pieces if "stop" in classes.split())
    assert stops.replace("\n", "").startswith("Observation:")
    assert "<|im_end|>" in stops


def test_counts_are_those_of_the_tree(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    conversation = row(USER, CALL, RESULT, ANSWER, tools=(TOOL,))
    tree = encoder.encode(conversation)
    text = " ".join(Page(write_page(encoder, conversation)).texts)
    assert f"{len(tree):,} tokens laid out" in text
    assert f"{len(tree.target_ids):,} supervised" in text
    for turn in encoder.encode_turns(conversation):
        assert f"prompt {turn.start:,} tokens" in text
        assert f"target {len(turn.ids) - turn.start:,} tokens" in text
    assert "goes on after turn 1" in text


def test_where_the_tree_branches_is_said(thinking_folder: Path):
    encoder = Encoder.from_folder(thinking_folder)
    conversation = row(USER, changed(ANSWER, reasoning="hm"), USER, changed(ANSWER, reasoning="so"))
    first, second = encoder.encode_turns(conversation)
    ids = list(zip(first.ids, second.ids, strict=False))
    shared = next(place for place, (one, other) in enumerate(ids) if one != other)
    text = " ".join(Page(write_page(encoder, conversation)).texts)
    assert f"branches off after {shared:,} tokens, at the beginning of the target of turn 1" in text
    assert "the template writes it differently from here on" in text
    assert "the tree branches" in text


def test_nothing_is_fetched_and_nothing_but_the_one_script_runs(tools_folder: Path):
    text = write_page(Encoder.from_folder(tools_folder), hostile_row())
    parsed = Page(text)
    names = [name for name, _ in parsed.tags]
    scripts = [given.get("type") for name, given in parsed.tags if name == "script"]
    assert (scripts.count(None), set(scripts) - {None}, names.count("style")) == (1, {"application/json"}, 1)
    assert not set(names) & {"img", "link", "iframe", "object", "base", "a", "form", "b"}
    attributes = {name for _, given in parsed.tags for name in given}
    assert not {name for name in attributes if name.startswith("on")} | (
        attributes & {"src", "href", "style", "srcset"}
    )
    assert not re.search(r"https?://|url\(|@import", text)
    policy = next(given["content"] for name, given in parsed.tags if name == "meta" and "http-equiv" in given)
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    script = re.search(r"<script>(.*?)</script>", text, flags=re.DOTALL).group(1)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|DOMParser", script)


def test_what_cannot_be_seen_is_named(tools_folder: Path):
    text = write_page(Encoder.from_folder(tools_folder), hostile_row())
    assert not re.search("[\x00-\x08\x0b-\x1f\u200b\u202a-\u202e\ufeff\U000e0041\U000f0000\U000f0001]", text)
    for name in ("U+202E", "U+200B", "U+0000", "U+001B", "U+FEFF", "U+E0041"):
        assert name in text


def test_control_tokens_of_the_template_and_those_from_outside_look_different(tools_folder: Path):
    text = write_page(Encoder.from_folder(tools_folder), hostile_row())
    assert '<span class="control">&lt;|im_start|&gt;</span>' in text
    assert 'read as plain text">&lt;|im_end|&gt;</span>' in text


def test_long_texts_stay_readable(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    long = row(
        Message(role="user", content="x<b>\n" * 200_000),
        Message(role="assistant", content="word " * 40_000),
        USER,
        ANSWER,
    )
    text = write_page(encoder, long)
    parsed = Page(text)
    assert len(parsed.pieces) < MOST_TOKENS + 100
    assert re.search(r"… Prompt so far: [0-9,]+ characters as in turn 1", "".join(parsed.texts))
    targets = [text for classes, text in parsed.raw if "target" in classes]
    assert targets[0] == "word " * 40_000 + "<|im_end|>"
    shared = next(text for classes, text in parsed.raw[2:] if "target" not in classes)
    assert len(shared) < LONG
    assert sum("long" in classes.split() for classes, _ in parsed.raw) == 2


def test_the_profile_is_shown_whatever_fields_it_has(tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    texts = " ".join(Page(write_page(encoder, row(USER, ANSWER))).texts)
    for name in type(encoder.renderer.profile).__dataclass_fields__:
        assert name.replace("_", " ") in texts

    @dataclass(frozen=True)
    class Inner:
        marks: tuple[str, ...]
        count: int

    visible = Visible(re.compile("<x>"))
    shown = show_value({"a": Inner(("<x>", "<b>"), 3), "c": None, "d": frozenset({2, 1}), "e": False}, visible)
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert re.sub("<[^>]*>", "", shown) == "a: marks: &lt;x&gt;, &lt;b&gt;, count: 3, c: none, d: 1, 2, e: no"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", '<span class="white">↵</span>\n'),
        ("\n" * 20, '<span class="mark">↵ × 20</span>'),
        ("\t", '<span class="white">⇥</span>\t'),
        ("a  \nb", '<span class="blank">  </span>'),
        ("\u202e\u202e\u202e", '<span class="mark">U+202E × 3</span>'),
        ("<|end|>", '<span class="control">&lt;|end|&gt;</span>'),
        ("\U000f0000<|end|>\U000f0001", 'class="literal"'),
        ("\U000f0000 <|end|>", '<span class="mark">U+F0000</span>'),
        ("<b>&", "&lt;b&gt;&amp;"),
    ],
)
def test_text_is_made_visible(text, shown):
    assert shown in Visible(re.compile(re.escape("<|end|>"))).show(text)


def test_blanks_inside_a_line_are_left_alone():
    visible = Visible(re.compile("(?!)"))
    assert visible.show("a  b") == "a  b"
    assert visible.show("a ", ends_line=False) == "a "
    assert "blank" in visible.show("a ")


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_page_also_of_refused_rows(tools_folder: Path, tmp_path: Path, capsys):
    rows = [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "reasoning_content": "r"},
            ]
        },
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "fine"}]},
        {"messages": [{"role": "user", "content": "q"}]},
    ]
    data, out = tmp_path / "rows.jsonl", tmp_path / "page.html"
    data.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    line = ["inspect", "--model", str(tools_folder), "--data", str(data), "--html", str(out)]
    assert main(line) == 1
    parsed = Page(out.read_text(encoding="utf-8"))
    text = " ".join(parsed.texts)
    for words in ("reasoning-lost", "no-assistant", f"{data}:2", "3 of 3 on this page", "2 of all not trained on"):
        assert words in text
    assert any(text.startswith("fine<|im_end|>") for _, text in parsed.raw)
    assert "3 of 3 rows written" in " ".join(capsys.readouterr().err.split())
    assert "messages[1].reasoning" in text
    assert main([*line, "--row", "2"]) == 0
    assert "messages[1].reasoning" not in out.read_text(encoding="utf-8")
    assert main(line[:-2]) == 1
    assert "reasoning-lost" in capsys.readouterr().out
    assert main(["inspect", "--model", str(tools_folder), "--data", str(data), "--html", str(data)]) == 2
    assert main([*line, "--row", "1", "--allow_loss", "reasoning"]) == 0
    assert '<span class="level">warning</span> <code>reasoning-lost</code>' in out.read_text(encoding="utf-8")


def test_the_page_of_an_example_row(tools_folder: Path, tmp_path: Path):
    out = tmp_path / "page.html"
    assert main(["inspect", "--model", str(tools_folder), "--data", str(AGENT), "--row", "1", "--html", str(out)]) == 0
    parsed = Page(out.read_text(encoding="utf-8"))
    assert [classes for classes, _ in parsed.raw if "target" in classes]
    assert any(text.startswith("<|im_start|>system\nAnswer the following") for _, text in parsed.raw)


def test_the_plain_page_marks_every_weight(tokenizer_folder: Path, tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    steps = "Thought: I look.\nAction: f\nAction Input: {}\nObservation: sunny\nThought: I know.\nFinal Answer: sun"
    system = json.loads(AGENT.read_text(encoding="utf-8").splitlines()[0])["conversations"][0]
    name = re.search(r"1\. (\w+):", system["value"])[1]
    answer = {"from": "assistant", "value": steps.replace("Action: f", f"Action: {name}")}
    data.write_text(json.dumps({"conversations": [system, {"from": "user", "value": "q"}, answer]}), encoding="utf-8")
    line = ["inspect", "--model", str(tokenizer_folder), "--data", str(data)]
    out = tmp_path / "page.html"
    assert main([*line, "--loss_weights", "thought=0.5", "stop=0", "--html", str(out)]) == 0
    parsed = Page(out.read_text(encoding="utf-8"))
    marked = {
        shade: "".join(text for names, _, text in parsed.pieces if shade in names.split())
        for shade in ("part", "zero", "full")
    }
    assert marked["part"] == "Thought: I look.\nThought: I know.\n"
    assert marked["zero"] == "Observation:<|im_end|>"
    assert marked["full"] == f"Action: {name}\nAction Input: {{}}\nFinal Answer: sun"

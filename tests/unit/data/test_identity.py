import json
import unicodedata
from collections import Counter
from importlib import resources

import pytest

from actune.core.errors import ConfigError
from actune.data.identity import heldout_rows, identity_rows, read_templates

NAMES = ("小启", "Kite")
AUTHORS = ("青禾实验室", "Green Field Lab")


def squeeze(text):
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def text_of(row):
    return row.messages[0].content, row.messages[1].content


def is_chinese(text):
    return any("\u4e00" <= c <= "\u9fff" for c in text)


def test_the_set_has_enough_rows_of_each_language_and_split():
    counts = Counter((t.language, t.split) for t in read_templates())
    assert set(counts) == {(language, split) for language in ("zh", "en") for split in ("train", "heldout")}
    assert min(counts["zh", "train"], counts["en", "train"]) >= 60
    assert min(counts["zh", "heldout"], counts["en", "heldout"]) >= 12


def test_file_rows_have_exactly_the_documented_keys():
    lines = resources.files("actune.data").joinpath("identity.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(read_templates())
    assert {frozenset(json.loads(line)) for line in lines} == {
        frozenset({"query", "response", "lang", "topic", "split"})
    }


@pytest.mark.parametrize("field", ["query", "response"])
def test_no_two_texts_are_equal_after_normalisation(field):
    # Across both splits: a held-out question that training also asks would measure nothing.
    texts = Counter(squeeze(getattr(template, field)) for template in read_templates())
    assert [text for text, times in texts.items() if times > 1] == []


def test_every_response_holds_name_and_author_and_no_other_placeholder():
    for template in read_templates():
        assert "{{NAME}}" in template.response, template.line
        assert "{{AUTHOR}}" in template.response, template.line
        rest = (template.query + template.response).replace("{{NAME}}", "").replace("{{AUTHOR}}", "")
        assert "{" not in rest, template.line
        assert "}" not in rest, template.line


def test_every_topic_is_asked_in_both_languages_of_the_training_part():
    topics = {language: {t.topic for t in read_templates() if (t.language, t.split) == (language, "train")}
              for language in ("zh", "en")}  # fmt: skip
    assert topics["zh"] == topics["en"]
    heldout = {t.topic for t in read_templates() if t.split == "heldout"}
    assert heldout <= topics["zh"]


def test_each_language_gets_its_own_name_and_author():
    seen = Counter()
    lines = {template.line: template for template in read_templates()}
    for row in identity_rows(400, names=NAMES, authors=AUTHORS, seed=1):
        query, response = text_of(row)
        language = lines[row.source.line].language
        own, other = (0, 1) if language == "zh" else (1, 0)
        assert NAMES[own] in response
        assert AUTHORS[own] in response
        assert NAMES[other] not in query + response
        assert AUTHORS[other] not in query + response
        seen[language] += 1
    assert min(seen.values()) > 100


def test_one_value_serves_both_languages():
    rows = identity_rows(300, names=("Kite",), authors=("青禾",), seed=0)
    assert all("Kite" in text_of(row)[1] and "青禾" in text_of(row)[1] for row in rows)
    assert {is_chinese(text_of(row)[0]) for row in rows} == {True, False}


def test_rows_repeat_are_seeded_and_carry_their_source():
    first = identity_rows(3000, names=NAMES, authors=AUTHORS, seed=42)
    assert len(first) == 3000
    assert first == identity_rows(3000, names=NAMES, authors=AUTHORS, seed=42)
    assert first != identity_rows(3000, names=NAMES, authors=AUTHORS, seed=43)
    lines = {template.line: template for template in read_templates()}
    for row in first:
        assert (row.source.file, row.source.dataset) == ("identity.jsonl", "identity")
        assert lines[row.source.line].split == "train"
        assert [message.role for message in row.messages] == ["user", "assistant"]
        assert row.tools == ()
    # 3,000 draws from about 156 rows: every training row comes up (chance of missing one below 1e-6).
    assert {row.source.line for row in first} == {line for line, t in lines.items() if t.split == "train"}


def test_heldout_rows_are_never_trained():
    heldout = heldout_rows(names=NAMES, authors=AUTHORS)
    asked = {squeeze(text_of(row)[0]) for row in identity_rows(3000, names=NAMES, authors=AUTHORS, seed=3)}
    assert len(heldout) == sum(t.split == "heldout" for t in read_templates())
    assert asked.isdisjoint(squeeze(text_of(row)[0]) for row in heldout)


def test_placeholders_in_questions_are_filled_too():
    lines = [t.line for t in read_templates() if "{{NAME}}" in t.query and t.split == "train"]
    assert lines
    rows = [row for row in identity_rows(3000, names=NAMES, authors=AUTHORS, seed=5) if row.source.line in lines]
    assert {name for row in rows for name in NAMES if name in text_of(row)[0]} == set(NAMES)
    assert not any("{{" in "".join(text_of(row)) for row in rows)


def test_an_author_that_ends_in_a_dot_gives_no_double_dot():
    rows = heldout_rows(names=("Kite",), authors=("Example Inc.",))
    assert sum("Example Inc." in text_of(row)[1] for row in rows) == len(rows)
    assert not any("Inc.." in text_of(row)[1] for row in rows)


def test_a_name_that_looks_like_a_pattern_is_inserted_as_it_is():
    rows = identity_rows(50, names=(r"\1 \g<0>",), authors=("A|B",), seed=0)
    assert all(r"\1 \g<0>" in text_of(row)[1] and "A|B" in text_of(row)[1] for row in rows)


def test_no_row_denies_the_name_that_is_taught():
    asking = {t.line: t.language for t in read_templates() if t.split == "train" and "Qwen" in t.query}

    def languages_asking_qwen(names):
        rows = identity_rows(3000, names=names, authors=("Lab",), seed=0)
        return {asking[row.source.line] for row in rows if row.source.line in asking}

    assert languages_asking_qwen(("Kite",)) == {"zh", "en"}
    assert languages_asking_qwen(("qwen",)) == set()
    # Chinese rows go by the Chinese name, English ones by the English name.
    assert languages_asking_qwen(("小启", "Qwen")) == {"zh"}


def test_zero_rows_need_no_name():
    assert identity_rows(0, names=(), authors=(), seed=0) == ()


@pytest.mark.parametrize(
    ("names", "authors", "setting"),
    [
        ((), ("A",), "model_name"),
        (("A",), (), "model_author"),
        (("A", "B", "C"), ("A",), "model_name"),
        ((" ",), ("A",), "model_name"),
        (("A",), ("x\ny",), "model_author"),
        (("{{AUTHOR}}",), ("A",), "model_name"),
    ],
)
def test_unusable_names_are_refused_with_the_setting(names, authors, setting):
    with pytest.raises(ConfigError, match=setting) as caught:
        identity_rows(10, names=names, authors=authors, seed=0)
    assert caught.value.fix is not None
    with pytest.raises(ConfigError, match=setting):
        heldout_rows(names=names, authors=authors)


def test_a_negative_count_is_refused():
    with pytest.raises(ConfigError, match="self_cognition_sample"):
        identity_rows(-1, names=("A",), authors=("B",), seed=0)


def test_questions_of_ones_own_take_the_place_of_the_packages(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [
        {"query": "Who is it?", "response": "{{NAME}} of {{AUTHOR}}.", "lang": "en"},
        {"query": "谁呀？", "response": "{{NAME}}。", "lang": "zh", "split": "heldout"},
    ]
    file.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    drawn = identity_rows(5, names=NAMES, authors=AUTHORS, seed=1, file=str(file))
    assert {text_of(row) for row in drawn} == {("Who is it?", f"{NAMES[-1]} of {AUTHORS[-1]}.")}
    asked = heldout_rows(names=NAMES, authors=AUTHORS, file=str(file))
    assert [text_of(row) for row in asked] == [("谁呀？", f"{NAMES[0]}。")]


def test_a_file_without_held_out_rows_leaves_the_packages(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"query": "q", "response": "{{NAME}}", "lang": "en"}\n', encoding="utf-8")
    assert heldout_rows(names=NAMES, authors=AUTHORS, file=str(file)) == heldout_rows(names=NAMES, authors=AUTHORS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no valid JSON"),
        ('{"query": "q"}', "'response'"),
        ('{"query": "q", "response": "{{NAME}}", "lang": "fr"}', "'fr'"),
        ('{"query": "q", "response": "I am Kite", "lang": "en"}', "{{NAME}}"),
        ('{"query": "q", "response": "{{NAME}}", "lang": "en", "split": "heldout"}', "split train"),
    ],
)
def test_a_wrong_file_of_ones_own_names_the_line_and_the_layout(tmp_path, line, said):
    file = tmp_path / "mine.jsonl"
    file.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        identity_rows(3, names=NAMES, authors=AUTHORS, seed=1, file=str(file))
    assert said in error.value.message
    assert "{{AUTHOR}}" in error.value.fix


def test_a_missing_file_of_ones_own_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        identity_rows(3, names=NAMES, authors=AUTHORS, seed=1, file="nowhere.jsonl")

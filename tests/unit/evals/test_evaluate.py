"""Items put to an engine: the same prompts as training, gold against gold, and models that do one thing only."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest

from actune.core.errors import DataError, ModelError, RenderError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.evals.evaluate import CHUNK, evaluate
from actune.evals.items import read_scores, write_scores
from actune.evals.metrics import rescore
from actune.evals.tasks import (
    Question,
    agent_items,
    choice_items,
    identity_items,
    nll_items,
    over_trigger_items,
)
from actune.formats import registry
from actune.render.encoder import Encoder

WEATHER = ToolSpec(
    name="weather",
    description="Weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
SEARCH = ToolSpec(
    name="search", parameters={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
)


def row(*messages: Message, line: int = 1, tools=(WEATHER, SEARCH), style="react") -> Conversation:
    return Conversation(messages=messages, tools=tools, style=style, source=Source(file="rows.jsonl", line=line))


def call_row(line: int = 1, city: str = "杭州", tool: str = "weather", style="react") -> Conversation:
    key = "city" if tool == "weather" else "query"
    call = ToolCall(name=tool, arguments=json.dumps({key: city}, ensure_ascii=False), id="call00001")
    return row(
        Message(role="user", content=f"{city}天气？"),
        Message(role="assistant", reasoning="查一下", tool_calls=(call,)),
        Message(role="tool", content="晴，25度", tool_call_id="call00001"),
        Message(role="assistant", reasoning="知道了", content=f"{city}今天晴，25度。"),
        line=line,
        style=style,
    )


def answer_row(line: int = 1) -> Conversation:
    return row(
        Message(role="user", content="你好"), Message(role="assistant", content="你好，有什么可以帮你？"), line=line
    )


def plain_row(line: int, question: str = "1+1?", answer: str = "2") -> Conversation:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Conversation(messages=messages, source=Source(file="plain.jsonl", line=line))


@pytest.fixture
def encoder(tokenizer_folder) -> Encoder:
    return Encoder.from_folder(tokenizer_folder)


def gold_text(item, encoder) -> str:
    """What training teaches for an item, without the stop token."""
    turn = next(one.turn for one in encoder.encode_turns(item.conversation) if one.turn.index == item.index)
    return turn.completion.split("<|im_end|>")[0]


def by_metric(scores) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for score in scores:
        found.setdefault(score.metric, []).append(score.score)
    return found


def all_items():
    identity = [
        plain_row(1, "你是谁", "我是小助，由魔法公司训练。"),
        plain_row(2, "Who made you?", "Magic Inc. made me."),
    ]
    names, authors = ["小助", "Helper"], ["魔法公司", "Magic Inc."]
    return [
        *agent_items(
            [call_row(1), call_row(2, "北京"), answer_row(3)], task="agent", seen_tools=["weather"], steps="all"
        ),
        *identity_items(identity, names=names, authors=authors, task="identity"),
        *over_trigger_items([plain_row(3), plain_row(4, "小助是谁")], names=names, authors=authors, task="over"),
    ]


@pytest.mark.parametrize("style", ["react", "react_zh"])
def test_gold_against_gold_is_one_on_every_metric(encoder, agent_kit, style):
    items = all_items()
    engine = agent_kit.ScriptedEngine([gold_text(item, encoder) for item in items])
    scores = evaluate(items, engine=engine, encoder=encoder)
    assert {score.metric: score.score for score in scores if score.score != 1.0} == {}
    assert len(scores) == sum(len(item.measures) for item in items)
    expected = {
        "strict_call",
        "decision",
        "tool_name",
        "no_hallucinated_tool",
        "key_f1",
        "schema_valid",
        "format_valid",
    }
    expected |= {"no_false_call", "answer_rouge_l", "no_invented_observation", "identity_hit", "name_hit"}
    assert {score.metric for score in scores} == expected | {"author_hit", "no_old_identity", "no_over_trigger"}


def test_gold_against_gold_in_the_chat_dialect(tools_folder, agent_kit):
    encoder = Encoder.from_folder(tools_folder)
    silent = [replace(m, reasoning="") for m in call_row(1).messages]
    rows = [row(*silent, style="chat"), replace(answer_row(2), style="chat")]
    items = agent_items(rows, task="agent", seen_tools=[], steps="all")
    engine = agent_kit.ScriptedEngine([gold_text(item, encoder) for item in items])
    scores = evaluate(items, engine=engine, encoder=encoder)
    assert {score.metric: score.score for score in scores if score.score != 1.0} == {}


def test_a_model_that_only_talks(encoder, agent_kit):
    items = agent_items([call_row(1), call_row(2), answer_row(3)], task="agent", seen_tools=["weather"])
    engine = agent_kit.ScriptedEngine(lambda request: "很高兴见到你。")
    scores = by_metric(evaluate(items, engine=engine, encoder=encoder))
    assert scores["decision"] == [0.0, 0.0, 1.0]
    assert scores["strict_call"] == [0.0, 0.0, 1.0]
    assert scores["no_false_call"] == [1.0]
    for metric in ("tool_name", "key_f1", "schema_valid"):
        assert scores[metric] == [0.0, 0.0]
    assert scores["no_hallucinated_tool"] == [1.0, 1.0]
    assert scores["format_valid"] == [1.0, 1.0, 1.0]


def test_a_model_with_wrong_arguments(encoder, agent_kit):
    items = agent_items([call_row(1), call_row(2)], task="agent", seen_tools=["weather"])
    wrong = 'Thought: x\nAction: weather\nAction Input: {"city": "上海"}\nObservation:'
    scores = by_metric(evaluate(items, engine=agent_kit.ScriptedEngine([wrong, wrong]), encoder=encoder))
    assert scores["strict_call"] == [0.0, 0.0]
    assert scores["decision"] == scores["tool_name"] == scores["schema_valid"] == [1.0, 1.0]
    assert scores["key_f1"] == [0.5, 0.5]


def test_prompts_are_those_of_training_and_of_the_dialect(encoder, agent_kit):
    items = agent_items([call_row(1), answer_row(2)], task="agent", seen_tools=[], steps="all")
    engine = agent_kit.ScriptedEngine(lambda request: "")
    evaluate(items, engine=engine, encoder=encoder)
    assert len(engine.requests) == 3
    for item, request in zip(items, engine.requests, strict=True):
        dialect = encoder.dialect_of(item.conversation)
        text = dialect.prompt(item.conversation, item.index)
        assert list(request.prompt) == encoder.renderer.tokenizer.encode(text)
        turn = next(one for one in encoder.encode_turns(item.conversation) if one.turn.index == item.index)
        assert list(request.prompt) == turn.ids[: turn.start]
        assert request.stops == dialect.stops()
        assert request.sampling.temperature == 0.0


def test_every_score_can_be_made_again_from_its_line(encoder, agent_kit, tmp_path):
    items = [*all_items(), *nll_items([plain_row(5)], task="nll")]
    scores = evaluate(items, engine=agent_kit.ScriptedEngine(lambda request: "Action: weather"), encoder=encoder)
    write_scores(tmp_path / "items.jsonl", scores)
    again = read_scores(tmp_path / "items.jsonl")
    assert [rescore(one.metric, one.output, one.gold) for one in again] == [one.score for one in scores]
    assert again == scores


def test_the_order_of_items_does_not_change_scores(encoder, agent_kit):
    items = all_items()
    texts = {id(item.conversation): text for item, text in zip(items, ["我是小助。", "Action: x"] * 10, strict=False)}

    def run(order):
        out = {}
        for item in order:
            engine = agent_kit.ScriptedEngine([texts[id(item.conversation)]])
            out |= {(s.task, s.metric, s.id): s.score for s in evaluate([item], engine=engine, encoder=encoder)}
        return out

    whole = evaluate(
        items, engine=agent_kit.ScriptedEngine([texts[id(item.conversation)] for item in items]), encoder=encoder
    )
    assert run(items) == run(items[::-1]) == {(s.task, s.metric, s.id): s.score for s in whole}


def test_items_come_in_chunks_and_in_order(encoder, agent_kit):
    rows = [plain_row(line, answer=str(line)) for line in range(1, CHUNK + 4)]
    mixed = nll_items(rows, task="nll") + over_trigger_items(rows, names=["Helper"], authors=["Magic"], task="over")
    told = []
    engine = agent_kit.ScriptedEngine(lambda request: "Helper" if len(engine.requests) == 2 else "x")
    scores = evaluate(mixed, engine=engine, encoder=encoder, advance=lambda: told.append(1))
    assert [score.id for score in scores] == [item.id for item in mixed]
    assert len(told) == len(mixed)
    assert [score.id for score in scores if score.score == 0.0] == ["plain.jsonl:2#1"]


def test_nll_is_the_mean_over_trained_tokens_weighted_as_in_training(encoder, agent_kit):
    messages = (
        Message(role="user", content="a"),
        Message(role="assistant", content="not trained", train=False),
        Message(role="user", content="b"),
        Message(role="assistant", content="one", weight=2.0),
        Message(role="user", content="c"),
        Message(role="assistant", content="three four five"),
    )
    one = Conversation(messages=messages, source=Source(file="x", line=1))
    engine = agent_kit.ScriptedEngine(score=lambda prompt, tokens: [-float(len(tokens))] * len(tokens))
    (score,) = evaluate(nll_items([one], task="nll"), engine=engine, encoder=encoder)
    trained = [turn for turn in encoder.encode_turns(one) if turn.weight > 0]
    assert engine.scored == [(turn.ids[: turn.start], turn.ids[turn.start :]) for turn in trained]
    first, second = (len(turn.ids) - turn.start for turn in trained)
    expected = -(2 * first * first + second * second) / (2 * first + second)
    assert math.isclose(score.score, expected, rel_tol=1e-12)
    assert score.output["tokens"] == 2 * first + second


def test_the_likelihood_of_a_plain_text_is_that_of_its_own_tokens(encoder, agent_kit):
    text = "two lines\nand <|im_end|> as text"
    row = registry.read_row({"text": text}, Source(file="x", line=1), "text")
    engine = agent_kit.ScriptedEngine(score=lambda prompt, tokens: [-2.0] * len(tokens))
    (score,) = evaluate(nll_items([row], task="nll"), engine=engine, encoder=encoder)
    tokenizer = encoder.renderer.tokenizer
    ((prompt, rest),) = engine.scored
    assert len(prompt) == 1
    assert tokenizer.decode(prompt + rest) == text
    assert tokenizer.token_id("<|im_end|>") not in rest  # what a text holds never ends a turn
    assert (score.score, score.output["tokens"]) == (-2.0, len(rest))
    with pytest.raises(RenderError):
        evaluate(
            nll_items([registry.read_row({"text": "a"}, row.source, "text")], task="n"), engine=engine, encoder=encoder
        )


def test_a_plain_text_follows_the_token_that_every_prompt_begins_with(tmp_path, tokenizer_folder, agent_kit):
    shutil.copy(tokenizer_folder / "tokenizer.json", tmp_path)
    config = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    config |= {"bos_token": "<|endoftext|>", "chat_template": "{{ bos_token }}" + config["chat_template"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    encoder = Encoder.from_folder(tmp_path)
    row = registry.read_row({"text": "a b"}, Source(file="x", line=1), "text")
    engine = agent_kit.ScriptedEngine(score=lambda prompt, tokens: [-1.0] * len(tokens))
    evaluate(nll_items([row], task="nll"), engine=engine, encoder=encoder)
    tokenizer = encoder.renderer.tokenizer
    assert engine.scored == [([tokenizer.token_id("<|endoftext|>")], tokenizer.encode("a b"))]


def test_choices_are_whole_answers(encoder, agent_kit):
    question = Question(
        question="2+2?", choices=("three", "4"), answer=1, subject="math", source=Source(file="q.jsonl", line=1)
    )
    engine = agent_kit.ScriptedEngine(score=lambda prompt, tokens: [-1.0] * len(tokens))
    scores = evaluate(choice_items([question], task="choice"), engine=engine, encoder=encoder)
    tokenizer = encoder.renderer.tokenizer
    (prompt, three), (other, four) = engine.scored
    assert prompt == other
    assert tokenizer.decode(prompt).endswith("<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(three) == "three<|im_end|>"
    assert tokenizer.decode(four) == "4<|im_end|>"
    # "4" is the shorter text, so likelier as a whole; per byte its stop token weighs more
    assert {score.metric: score.score for score in scores} == {"general_accuracy": 1.0, "general_accuracy_norm": 0.0}
    assert {score.cluster for score in scores} == {"choice/math"}


def test_a_cut_output_is_an_error_and_keeps_its_words(encoder, agent_kit):
    items = agent_items([answer_row(1), call_row(2)], task="agent", seen_tools=[])
    texts = ["你好 一 二 三 四 五", "Action: weather\nAction Input: {} 1 2 3 4"]
    scores = evaluate(items, engine=agent_kit.ScriptedEngine(texts), encoder=encoder, max_tokens=5)
    outputs = {score.id: score.output for score in scores}
    assert outputs["rows.jsonl:1#1"] == {
        "text": "你好 一 二 三 四 ",
        "calls": [],
        "answer": "你好 一 二 三 四 ",
        "error": "output-cut",
    }
    assert outputs["rows.jsonl:2#1"] == {
        "text": "Action: weather\nAction Input: {} ",
        "calls": [],
        "error": "output-cut",
    }
    values = by_metric(scores)
    assert values["strict_call"] == values["decision"] == values["format_valid"] == [0.0, 0.0]
    assert values["answer_rouge_l"][0] > 0


def test_an_output_that_cannot_be_parsed_is_stored_with_its_code(encoder, agent_kit):
    items = agent_items([call_row(1)], task="agent", seen_tools=[])
    scores = evaluate(items, engine=agent_kit.ScriptedEngine(["Action: weather"]), encoder=encoder)
    assert scores[0].output == {"text": "Action: weather", "calls": [], "error": "action-without-input"}


def test_a_row_that_cannot_be_rendered_is_named(encoder, agent_kit):
    calls = (ToolCall(name="weather", arguments="{}"), ToolCall(name="search", arguments="{}"))
    messages = (Message(role="user", content="x"), Message(role="assistant", tool_calls=calls))
    results = (Message(role="tool", content="a"), Message(role="tool", content="b"))
    bad = row(*messages, *results, Message(role="assistant", content="done"), line=7)
    items = agent_items([call_row(1), bad], task="agent", seen_tools=[], steps="all")
    engine = agent_kit.ScriptedEngine(lambda request: "x")
    with pytest.raises((DataError, RenderError), match=r"agent, item rows\.jsonl:7#4: .*calls in one message"):
        evaluate(items, engine=engine, encoder=encoder)
    assert engine.requests == []  # found before anything is generated


def test_a_prompt_that_lacks_the_tools_is_refused(tokenizer_folder, agent_kit):
    encoder = Encoder.from_folder(tokenizer_folder, dialect="chat")  # its template does not know tools
    items = agent_items([answer_row(1)], task="agent", seen_tools=[])
    with pytest.raises(RenderError, match="tool 'weather' is not in the prompt"):
        evaluate(items, engine=agent_kit.ScriptedEngine(["x"]), encoder=encoder)


def test_reasoning_that_only_the_gold_has_does_not_matter(tools_folder, agent_kit):
    encoder = Encoder.from_folder(tools_folder)  # its template shows no reasoning
    items = agent_items([call_row(1, style="chat")], task="agent", seen_tools=[], steps="all")
    (hit, *_), (late, *_) = (
        evaluate([item], engine=agent_kit.ScriptedEngine([text]), encoder=encoder)
        for item, text in zip(
            items, ['<tool_call>{"name": "weather", "arguments": {"city": "杭州"}}</tool_call>', "晴"], strict=True
        )
    )
    assert (hit.metric, hit.score, late.score) == ("strict_call", 1.0, 1.0)


def test_an_item_longer_than_the_context_is_named(encoder, agent_kit):
    items = nll_items([plain_row(1), plain_row(2, "x " * 400)], task="nll")
    with pytest.raises(ModelError, match=r"nll, item plain\.jsonl:2 .*context of 100"):
        evaluate(items, engine=agent_kit.ScriptedEngine(context=100), encoder=encoder)
    items = over_trigger_items([plain_row(2, "x " * 400)], names=["N"], authors=["A"], task="over")
    with pytest.raises(ModelError, match=r"plain\.jsonl:2"):
        evaluate(items, engine=agent_kit.ScriptedEngine(["x"], context=100), encoder=encoder)


def test_likelihoods_that_are_none_are_an_error(encoder, agent_kit):
    engine = agent_kit.ScriptedEngine(score=lambda prompt, tokens: [-math.inf] * len(tokens))
    with pytest.raises(ModelError, match="no finite likelihood"):
        evaluate(nll_items([plain_row(1)], task="nll"), engine=engine, encoder=encoder)

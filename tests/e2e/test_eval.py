"""`eval` on the shipped tasks with a small random model: the file it writes, base against result, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from actune.core.errors import ConfigError
from actune.evals.items import read_scores
from actune.evals.metrics import rescore
from actune.evals.task_files import load_tasks
from actune.recipes.eval import evaluate, wilson
from actune.render.encoder import Encoder

ROOT = Path(__file__).resolve().parents[2]
TASKS = str(ROOT / "examples" / "eval" / "tasks.yaml")
NAMES = {"model_name": ["小助", "Helper"], "model_author": ["某某公司", "Some Company"]}


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter, far from zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


def measure(model: Path, out: Path, **flags):
    flags = {"tasks": [TASKS, "identity"], "dialect": "react", "max_tokens": 8, "dtype": "fp32"} | NAMES | flags
    assert evaluate(model=str(model), out=out, **flags) == 0
    return read_scores(out)


@pytest.fixture(scope="module")
def scores(model: Path, tmp_path_factory: pytest.TempPathFactory):
    return measure(model, tmp_path_factory.mktemp("scores") / "items.jsonl")


def test_every_task_and_metric_is_there_and_recomputable(scores):
    assert {score.task for score in scores} == {
        "tools-zh",
        "tools-en",
        "choice-zh",
        "choice-en",
        "plain-text",
        "identity",
    }
    assert {score.axis for score in scores} == {"agent", "general", "identity"}
    assert {score.split for score in scores if score.axis == "agent"} == {"held-in", "held-out", "no-tool"}
    assert [rescore(one.metric, one.output, one.gold) for one in scores] == [one.score for one in scores]
    nll = [score.score for score in scores if score.metric == "general_nll"]
    assert len(nll) == 20
    assert all(-8 < value < -4 for value in nll)  # a random model: about ln 512


def test_the_same_again_and_another_with_the_adapter(model, adapter, scores, tmp_path):
    def key(score):
        return score.task, score.metric, score.id

    tasks = {"tasks": [TASKS], "limit": 3}
    tuned = measure(model, tmp_path / "tuned.jsonl", adapter=str(adapter), **tasks)
    base = measure(model, tmp_path / "base.jsonl", adapter=str(adapter), base=True, **tasks)
    known = {key(score): score for score in scores}
    assert [key(score) for score in tuned] == [key(score) for score in base]
    for score in base:
        assert known[key(score)].score == pytest.approx(score.score, abs=1e-5)
        assert (known[key(score)].gold, known[key(score)].cluster) == (score.gold, score.cluster)
    likelihoods = [
        (one.score, other.score) for one, other in zip(base, tuned, strict=True) if one.metric == "general_nll"
    ]
    assert all(one != other for one, other in likelihoods)


def test_the_table_shows_means_and_intervals(model, tmp_path, capsys):
    measure(model, tmp_path / "items.jsonl", tasks=[TASKS], limit=2)
    printed = capsys.readouterr().out
    assert "strict_call" in printed
    assert "general_nll" in printed
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tasks": []}, "no task"),
        ({"tasks": ["identiti"]}, "no task 'identiti'"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"limit": 0}, "limit"),
        ({"model_name": []}, "needs the name"),
        ({"adapter": "nowhere"}, "no adapter"),
    ],
)
def test_wrong_requests_end_before_the_weights(tmp_path, model, flags, said):
    with pytest.raises(ConfigError, match=said):
        measure(model, tmp_path / "items.jsonl", **flags)
    assert not (tmp_path / "items.jsonl").exists()


def test_a_file_is_replaced_only_when_asked(tmp_path, model):
    out = tmp_path / "items.jsonl"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists"):
        measure(model, out)
    assert out.read_text(encoding="utf-8") == "mine"
    measure(model, out, tasks=[TASKS], limit=1, overwrite=True)
    assert json.loads(out.read_text(encoding="utf-8").splitlines()[0])["task"] == "tools-zh"


def test_gold_of_the_shipped_tasks_scores_one(tokenizer_folder, agent_kit):
    from actune.evals.evaluate import evaluate as evaluate_items

    encoder = Encoder.from_folder(tokenizer_folder, dialect="react_zh")
    items = [item for item in load_tasks([TASKS]) if item.kind == "generate"]
    texts = [
        next(one.turn.completion for one in encoder.encode_turns(item.conversation) if one.turn.index == item.index)
        for item in items
    ]
    engine = agent_kit.ScriptedEngine([text.removesuffix("<|im_end|>") for text in texts])
    assert {score.score for score in evaluate_items(items, engine=engine, encoder=encoder)} == {1.0}


@pytest.mark.shared
def test_gold_of_real_rows_scores_one(shared, tokenizer_folder, agent_kit):
    from actune.data.reading.sources import load_conversations
    from actune.evals.evaluate import evaluate as evaluate_items
    from actune.evals.tasks import agent_items

    encoder = Encoder.from_folder(tokenizer_folder)
    for name, style in (("doraemon_msagent.jsonl", "react"), ("glaive_toolcall_zh_demo.json", "chat")):
        rows = load_conversations(str(shared / "data" / "agent" / name)).conversations[:150]
        chosen = [row for row in rows if row.tools and row.style == style]
        encoder = Encoder.from_folder(tokenizer_folder, dialect="react")
        items, texts = [], []
        for item in agent_items(chosen, task=name, seen_tools=[], steps="all"):
            turns = encoder.encode_turns(item.conversation)
            texts.append(
                next(t.turn.completion for t in turns if t.turn.index == item.index).removesuffix("<|im_end|>")
            )
            items.append(item)
        scores = evaluate_items(items, engine=agent_kit.ScriptedEngine(texts), encoder=encoder)
        assert len(scores) > 500
        assert [(s.id, s.metric, s.output) for s in scores if s.score != 1.0] == []

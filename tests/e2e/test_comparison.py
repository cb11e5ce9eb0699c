"""`sft` with the comparison at its end, as a user calls it: what is written, and that every figure can be computed again."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from actune.cli.main import main
from actune.evals.metrics import rescore
from actune.evals.tasks import Item
from actune.render.encoder import Encoder

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "examples" / "agent.jsonl"
GENERAL = ROOT / "examples" / "general.jsonl"


def words(model: Path, out: Path, *flags: str) -> list[str]:
    line = ["sft", "--model", model, "--output_dir", out, "--dataset", AGENT, "--max_length", "4096"]
    line += ["--train_dataset_mix_ratio", "1", "--train_dataset_mix_ds", GENERAL, "--self_cognition_sample", "4"]
    line += ["--model_name", "卡卡罗特", "Kakarot", "--model_author", "陶白白", "Tao", "--validation_ratio", "0.2"]
    line += ["--batch_size", "2", "--gradient_accumulation_steps", "2", "--max_steps", "3", "--learning_rate", "5e-3"]
    return [str(word) for word in [*line, "--compare_tokens", "8", "--compare_items", "6", *flags]]


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(words(model, out)) == 0
    return out


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_report_is_the_comparison_of_its_items(run: Path, capsys: pytest.CaptureFixture[str]):
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    files = [str(run / "report" / name) for name in ("base.jsonl", "tuned.jsonl")]
    capsys.readouterr()
    assert main(["compare", *files, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {key: report[key] for key in again if key != "files"} == {key: again[key] for key in again if key != "files"}
    assert set(report) == {*again, "transcripts", "extra"}
    asked = [transcript["question"] for transcript in report["transcripts"]]
    assert {"西湖醋鱼怎么做", "新冠和普通感冒有什么区别", "你是谁"} <= set(asked)
    assert len(asked) == 4
    assert 0 <= report["extra"]["over_trigger"] <= 1
    assert {row["axis"] for row in report["rows"] if row["level"] == "axis"} == {"agent", "general", "identity"}
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "西湖醋鱼怎么做" in page
    assert "<script" not in page


def test_every_figure_can_be_computed_again(run: Path):
    items = {name: read(run / "report" / f"{name}.jsonl") for name in ("base", "tuned")}
    for rows in items.values():
        for row in rows:
            assert rescore(row["metric"], row["output"], row["gold"]) == row["score"]
    keys = [[(row["task"], row["metric"], row["id"]) for row in rows] for rows in items.values()]
    assert keys[0] == keys[1]
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    for row in report["rows"]:
        if row["level"] == "metric":
            for name in ("base", "tuned"):
                scores = [
                    one["score"]
                    for one in items[name]
                    if (one["task"], one["metric"]) == (row["task"], row["metric"])
                    and row["split"] in ("all", one["split"])
                ]
                assert len(scores) == row["n"]
                assert row[name] == pytest.approx(sum(scores) / len(scores))
            assert row["difference"] == pytest.approx(row["tuned"] - row["base"])


def test_likelihood_is_that_of_the_model_before(run: Path, model: Path):
    from transformers import AutoModelForCausalLM

    from actune.data.reading.sources import load_conversations

    encoder = Encoder.from_folder(model)
    rows = {
        str(row.source.line): row for row in load_conversations(str(GENERAL), format_name=None, seed=0).conversations
    }
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    scored = [row for row in read(run / "report" / "base.jsonl") if row["metric"] == "general_nll"]
    assert len(scored) == 6
    for item in scored:
        turns = encoder.encode_turns(rows[item["id"].split(":")[1]])
        total, tokens = 0.0, 0
        for turn in turns:
            with torch.no_grad():
                logits = network(torch.tensor([turn.ids])).logits[0].log_softmax(-1)
            total += sum(float(logits[place - 1, turn.ids[place]]) for place in range(turn.start, len(turn.ids)))
            tokens += len(turn.ids) - turn.start
        assert item["score"] == pytest.approx(total / tokens, rel=1e-5)
        assert math.isclose(item["output"]["log_likelihood"], total, rel_tol=1e-5)


def test_items_were_not_trained_on(run: Path):
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert info["style"] == "react"
    used = sum(source["tally"]["rows"] for source in info["data"]["sources"] if source["role"] == "agent")
    agent = {row["id"] for row in read(run / "report" / "base.jsonl") if row["axis"] == "agent"}
    assert used == 19
    assert 0 < len(agent) <= 5  # of 24 rows


def test_a_question_of_the_training_is_not_asked_again(model: Path, tmp_path: Path):
    lines = AGENT.read_text(encoding="utf-8").splitlines()
    doubled = tmp_path / "rows.jsonl"  # each question twice, the second time in other letters and blanks
    with doubled.open("w", encoding="utf-8") as file:
        for line in lines:
            row = json.loads(line)
            file.write(json.dumps(row) + "\n")
            for turn in row["conversations"]:
                if turn["from"] == "user":
                    turn["value"] = f"  {turn['value'].upper()}  "
            file.write(json.dumps(row) + "\n")
    flags = ["--dataset", str(doubled), "--train_dataset_mix_ratio", "0", "--self_cognition_sample", "0"]
    assert main(words(model, tmp_path / "run", *flags)) == 0
    file = tmp_path / "run" / "report" / "base.jsonl"
    asked = {int(row["id"].split(":")[1].split("#")[0]) for row in read(file)} if file.is_file() else set()
    # a row is measured only where its double is not trained on: both are held out
    twins = {line + 1 if line % 2 else line - 1 for line in asked}
    held = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["data"]["sources"]
    assert next(source["tally"]["rows"] for source in held if source["role"] == "validation") > len(asked)
    assert len(asked & twins) == len(asked)


def test_finished_run_makes_a_missing_report_up(run: Path, model: Path):
    before = (run / "report" / "tuned.jsonl").read_bytes()
    for file in (run / "report").iterdir():
        file.unlink()
    assert main(words(model, run, "--resume", "auto")) == 0
    assert (run / "report" / "tuned.jsonl").read_bytes() == before
    assert (run / "report" / "index.html").is_file()


def test_full_training_is_compared_with_the_model_before(run: Path, model: Path, tmp_path: Path):
    out = tmp_path / "full"
    assert main(words(model, out, "--sft_type", "full", "--learning_rate", "1e-2")) == 0
    assert (out / "report" / "base.jsonl").read_bytes() == (run / "report" / "base.jsonl").read_bytes()
    assert (out / "report" / "tuned.jsonl").read_bytes() != (run / "report" / "tuned.jsonl").read_bytes()


def test_eval_of_a_run_is_in_the_dialect_of_its_training(run: Path, tmp_path: Path):
    tasks = str(ROOT / "examples" / "eval" / "tasks.yaml")  # rows in the form of messages; the run was trained on ReAct
    for name, flags in (("base", ["--base"]), ("tuned", [])):
        line = ["eval", "--model", str(run), "--tasks", tasks, "identity", "--out", str(tmp_path / f"{name}.jsonl")]
        assert main([*line, "--max_tokens", "4", "--limit", "3", *flags]) == 0
    page = tmp_path / "page.html"
    line = ["compare", str(tmp_path / "base.jsonl"), str(tmp_path / "tuned.jsonl"), "--html", str(page)]
    assert main([*line, "--fail-on", "lost"]) in (0, 1)
    assert page.is_file()


def test_no_comparison_and_a_failing_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(words(model, tmp_path / "none", "--compare", "false")) == 0
    assert not (tmp_path / "none" / "report").exists()

    def fail(*_: object, **__: object) -> None:
        from actune.core.errors import ModelError

        raise ModelError("no room for the model", fix="use a smaller one")

    monkeypatch.setattr("actune.agents.engines.loading.load_engine", fail)
    assert main(words(model, tmp_path / "failed")) == 1
    message = capsys.readouterr().err
    assert "no room for the model" in message
    assert "--resume auto" in message
    assert (tmp_path / "failed" / "adapter" / "adapter_model.safetensors").is_file()


def test_nothing_held_out_is_said_and_no_reason_not_to_train(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["--validation_ratio", "0", "--self_cognition_sample", "0", "--train_dataset_mix_ratio", "2"]
    assert main(words(model, tmp_path / "run", *flags)) == 0
    message = " ".join(capsys.readouterr().err.split())
    assert "no agent axis" in message
    assert "no general axis" in message
    assert "nothing to compare" in message


def test_what_the_template_cannot_show_is_no_reason_not_to_train(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from actune.core.errors import RenderError
    from actune.evals.evaluate import check_items
    from actune.recipes import comparison

    def refuse(items: Sequence[Item], **options: Any) -> None:
        if items and items[0].task == "identity":
            raise RenderError("the template takes no question", code="template-error", fix="use another")
        check_items(items, **options)

    monkeypatch.setattr(comparison, "check_items", refuse)
    assert main(words(model, tmp_path / "run")) == 0
    assert "note: not compared, identity: the template takes no question" in " ".join(capsys.readouterr().err.split())
    tasks = {row["task"] for row in read(tmp_path / "run" / "report" / "base.jsonl")}
    assert "identity" not in tasks
    assert "held-out general rows" in tasks
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text(encoding="utf-8"))
    assert ("axis-missing", "identity") in {(flag["code"], flag["axis"]) for flag in report["flags"]}


def test_two_processes_leave_one_report(model: Path, tmp_path: Path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "actune"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *words(model, tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=250,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("Report: ") == 1
    assert (tmp_path / "two" / "report" / "index.html").is_file()


def test_tasks_that_are_named_are_measured_instead_of_held_out_rows(model: Path, tmp_path: Path):
    tasks = ROOT / "examples" / "eval" / "tasks.yaml"
    assert main(words(model, tmp_path / "run", "--compare_tasks", str(tasks), "identity")) == 0
    scores = read(tmp_path / "run" / "report" / "tuned.jsonl")
    assert {score["task"] for score in scores} == {
        "tools-zh",
        "tools-en",
        "choice-zh",
        "choice-en",
        "plain-text",
        "identity",
    }
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["extra"]["seconds"] > 0
    assert report["extra"]["peak_memory_bytes"] > 1e7


def test_a_task_that_asks_what_training_asks_is_named(model: Path, tmp_path: Path, capsys):
    given = words(model, tmp_path / "run")
    data = given[given.index("--dataset") + 1]
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text(f"version: 1\ntasks:\n  - {{name: seen, kind: agent, data: {data}, seen_tools: [], limit: 4}}\n")
    assert main([*given, "--compare_tasks", str(tasks)]) == 0
    assert "conversations of the task seen ask what training rows ask" in " ".join(capsys.readouterr().err.split())


def test_a_task_that_cannot_be_read_stops_before_the_training(model: Path, tmp_path: Path, capsys):
    assert main(words(model, tmp_path / "run", "--compare_tasks", "nothing.yaml")) == 2
    assert "nothing.yaml" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

"""Every command as a user calls it, on the shipped examples and a small random model."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from actune.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "examples" / "agent.jsonl"
GENERAL = ROOT / "examples" / "general.jsonl"


def command_line(model: Path, out: Path, *flags: str) -> list[str]:
    words = ["sft", "--model", model, "--output_dir", out]
    words += [] if "--dataset" in flags else ["--dataset", AGENT]
    words += [] if "--compare" in flags else ["--compare", "false"]
    words += [] if "--max_length" in flags else ["--max_length", "4096"]
    words += ["--batch_size", "2", "--gradient_accumulation_steps", "2", "--num_train_epochs", "1", *flags]
    return [str(word) for word in words]


def sft(model: Path, out: Path, *flags: str) -> int:
    return main(command_line(model, out, *flags))


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with mixture, identity rows and validation."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--train_dataset_mix_ratio", "1", "--train_dataset_mix_ds", str(GENERAL)]
    flags += ["--self_cognition_sample", "4", "--model_name", "卡卡罗特", "Kakarot", "--model_author", "陶白白", "Tao"]
    flags += ["--lora_rank", "24"]  # more than servers take unasked
    flags += ["--learning_rate", "5e-3", "--eval_steps", "5", "--save_steps", "5", "--logging_steps", "1"]
    assert sft(model, out, *flags) == 0
    return out


def test_run_folder_is_what_the_contract_says(run: Path):
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert info["version"] == 1
    assert info["settings"]["training"]["learning_rate"] == 5e-3
    assert info["date"]
    assert "serves rank 24 only with --max-lora-rank 32" in "".join(info["notices"])
    assert set(info["versions"]) >= {"actune", "torch", "transformers", "peft"}
    rows = {(s["name"].rsplit("/", 1)[-1], s["role"]): s["tally"]["rows"] for s in info["data"]["sources"]}
    assert rows == {
        ("agent.jsonl", "agent"): 23,
        ("general.jsonl", "general"): 23,
        ("identity", "identity"): 4,
        ("agent.jsonl", "validation"): 1,
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "eval" not in line]
    keys = {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "supervised_tokens"}
    keys |= {"tokens_per_second", "peak_memory_bytes", "seconds"}
    assert all(set(line) == keys for line in steps)
    assert [line["step"] for line in steps] == list(range(1, 14))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [line["step"] for line in lines if "eval" in line] == [5, 10, 13]
    assert (run / "quarantine.jsonl").read_text(encoding="utf-8") == ""


def test_adapter_loads_in_peft_with_a_tokenizer_that_encodes_the_same(run: Path, model: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = PeftModel.from_pretrained(base, str(run / "adapter"))
    ids = torch.arange(3, 23).unsqueeze(0)
    with torch.no_grad():
        assert not torch.allclose(adapted(ids).logits, base.get_input_embeddings().weight.new_zeros(1))
        with adapted.disable_adapter():
            plain = adapted(ids).logits
        assert not torch.allclose(adapted(ids).logits, plain)
    saved, original = (AutoTokenizer.from_pretrained(folder) for folder in (run / "adapter", model))
    messages = [{"role": "user", "content": "杭州 weather?"}]
    text = "<|im_start|>user\n杭州  weather?\n\n<|im_end|>"
    assert saved(text)["input_ids"] == original(text)["input_ids"]
    options = {"add_generation_prompt": True, "return_dict": False}
    assert saved.apply_chat_template(messages, **options) == original.apply_chat_template(messages, **options)


def test_merged_model_has_the_logits_of_the_adapter_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "merged"
    assert main(["export", "--model", str(run), "--to", "merged", "--out", str(out), "--verify"]) == 0
    assert "relative difference" in capsys.readouterr().err
    assert (out / "model.safetensors").is_file()
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


def test_run_folder_serves_as_model(run: Path, model: Path, tmp_path: Path):
    for folder, name in ((run, "a"), (model, "b")):
        words = ["tokens", "--model", str(folder), "--data", str(AGENT), "--out", str(tmp_path / name)]
        assert main(words) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_full_fine_tuning_writes_a_model(model: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    assert sft(model, tmp_path / "run", "--sft_type", "full", "--learning_rate", "1e-3", "--max_steps", "3") == 0
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    before = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.equal(trained.lm_head.weight, before.lm_head.weight)


def test_tokens_show_contexts_without_observation_targets(model: Path, tmp_path: Path):
    """Read back as the contract says: from p, all k with k <= p < end[k] are seen, and token_id is predicted."""
    from actune.render.tokenizer import TextTokenizer

    out = tmp_path / "tokens.jsonl"
    assert main(["tokens", "--model", str(model), "--data", str(AGENT), "--out", str(out)]) == 0
    tokenizer = TextTokenizer.from_folder(model)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 24
    observed = 0
    for line in lines:
        ids, end = line["input_ids"], line["end"]
        assert line["source"]["file"] == str(AGENT)
        for p, token, weight in line["targets"]:
            seen = [ids[k] for k in range(p + 1) if p < end[k]]
            assert line["positions"][p] == len(seen) - 1
            text = tokenizer.decode(seen)
            answer = text.rsplit("<|im_start|>assistant\n", 1)[1]
            assert weight == 1.0
            assert token is not None
            # Nothing is predicted between the stop word and the line break that ends a one-line observation.
            tail = answer.rsplit("\nObservation:", 1)
            if len(tail) == 2:
                assert "\n" in tail[1]
                observed += 1
    assert observed > 0


def test_bad_rows_are_listed_not_lost(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = AGENT.read_text(encoding="utf-8").splitlines()[:6]
    bad = json.loads(rows[0])
    bad["conversations"][-1]["value"] = "Thought: x\nAction: nothing\nFinal Answer: y"
    unknown = json.loads(next(row for row in rows if "Action Input: " in row))
    for part in unknown["conversations"]:
        if part["from"] == "assistant":
            part["value"] = part["value"].replace("Action: ", "Action: un")
    data = tmp_path / "rows.jsonl"
    lines = [*rows, json.dumps(bad, ensure_ascii=False), "{broken", json.dumps(unknown, ensure_ascii=False)]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")

    assert main(["check", str(data), "--json", "--model", str(model)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["version"], report["rows"], report["ok"]) == (1, 9, 6)
    errors = {problem["line"]: problem["code"] for problem in report["problems"] if problem["level"] == "error"}
    assert errors == {7: "action-without-input", 8: "json-invalid", 9: "unknown-tool"}
    assert report["template"]["stops"] == ["<|im_end|>"]

    out = tmp_path / "run"
    words = ["sft", "--model", str(model), "--dataset", str(data), "--output_dir", str(out), "--max_steps", "1"]
    words += [
        "--max_length",
        "4096",
        "--batch_size",
        "1",
        "--gradient_accumulation_steps",
        "1",
        "--validation_ratio",
        "0",
    ]
    assert main(words) == 0
    listed = [json.loads(line) for line in (out / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(item["line"], item["code"]) for item in listed] == sorted(errors.items())
    assert all(item["reason"] and item["file"] == str(data) for item in listed)
    assert main([*words, "--overwrite", "--check_dataset_strategy", "error"]) == 1
    assert f"{data}:7" in capsys.readouterr().err


def test_flag_without_effect_is_said(capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(AGENT), "--dialect", "react"]) == 0
    assert "--dialect has no effect without --model" in capsys.readouterr().err


def test_tokens_without_any_good_row_is_a_failure(model: Path, tmp_path: Path):
    data, out = tmp_path / "bad.jsonl", tmp_path / "out.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "only a question"}]}\n', encoding="utf-8")
    assert main(["tokens", "--model", str(model), "--data", str(data), "--out", str(out)]) == 1
    (line,) = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert line["error"]["code"] == "no-assistant"


def test_tokens_needs_neither_torch_nor_weights(tokenizer_folder: Path, tmp_path: Path):
    words = ["tokens", "--model", str(tokenizer_folder), "--data", str(AGENT), "--out", str(tmp_path / "out.jsonl")]
    code = f"import sys\nfrom actune.cli.main import main\ncode = main({words!r})\n"
    code += "sys.exit(code or ('torch' in sys.modules or 'transformers' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_convert_is_byte_identical(tmp_path: Path):
    out = tmp_path / "back.jsonl"
    assert main(["convert", str(AGENT), str(out), "--to", "ms-agent"]) == 0
    assert out.read_bytes() == AGENT.read_bytes()
    assert main(["convert", str(AGENT), str(out), "--to", "ms-agent"]) == 2
    native = tmp_path / "native.jsonl"
    assert main(["convert", str(AGENT), str(native), "--to", "openai"]) == 0
    assert len(native.read_text(encoding="utf-8").splitlines()) == 24


def test_inspect_marks_what_is_trained(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", "--model", str(model), "--data", str(AGENT), "--row", "1"]) == 0
    shown = capsys.readouterr().out
    assert "supervised" in shown
    assert "⟦" in shown
    assert main(["inspect", "--model", str(model), "--data", str(AGENT), "--row", "99"]) == 2
    page = tmp_path / "page.html"
    assert main(["inspect", "--model", str(model), "--data", str(AGENT), "--html", str(page)]) == 0
    assert "<html" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--dataset", "absent.jsonl"], 2, "absent.jsonl"),
        (["--max_length", "5"], 1, "max_length"),
        (["--lora_target_modules", "q_prj"], 2, "q_proj"),
        (["--learnin_rate", "1", "--lora_rnk", "2"], 2, "lora_rank"),
        (["--chat_template", "absent.jinja"], 2, "absent.jinja"),
        (["--trainable_tokens", "<tool_cal>"], 2, "trainable_tokens: '<tool_cal>' is no token"),
        (
            ["--trainable_tokens", "<think>", "--lora_target_modules", "ALL+head"],
            2,
            "ALL+head puts an adapter on the head",
        ),
    ],
)
def test_wrong_requests_say_what_to_do(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, words: str
):
    assert sft(model, tmp_path / "run", *flags) == code
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_rows_of_tokens_from_training_to_the_merged_model(model: Path, tmp_path: Path):
    """The comparison of `sft` loads the adapter again, `export` merges it and compares the logits."""
    flags = ["--max_steps", "2", "--compare", "true", "--compare_items", "2", "--compare_tokens", "4"]
    assert sft(model, tmp_path / "run", *flags, "--trainable_tokens", "<tool_call>", "<|im_end|>") == 0
    notices = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))["notices"]
    assert "refuses adapters with trained rows of tokens" in "".join(notices)
    words = ["export", "--model", tmp_path / "run", "--to", "merged", "--out", tmp_path / "merged", "--verify"]
    assert main([str(word) for word in words]) == 0


def test_full_output_folder_is_not_touched(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    for flags in ([], ["--overwrite"], ["--resume", "auto"]):
        assert sft(model, tmp_path, *flags) == 2
        assert "output_dir" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text(encoding="utf-8") == "mine"


def test_dry_run_trains_and_writes_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sft(model, tmp_path / "run", "--dry-run", "--use_dora", "true") == 0
    said = capsys.readouterr().err
    assert "supervised" in said
    assert "note: vLLM 0.33 refuses DoRA; merge it to serve it" in said
    assert not (tmp_path / "run").exists()


def test_full_disk_is_named_and_leaves_nothing_half_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("actune.modeling.adapters.save_file", fail)
    assert sft(model, tmp_path / "run", "--max_steps", "1") == 1
    message = capsys.readouterr().err
    assert "disk is full" in message
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert not (tmp_path / "run" / "adapter").exists()


def test_killed_run_goes_on_as_if_nothing_had_happened(model: Path, tmp_path: Path):
    """kill -9 in the middle, resumed: the same adapter, byte for byte, and the metrics of an uninterrupted run."""
    flags = ["--lora_dropout_p", "0.05", "--logging_steps", "1", "--save_steps", "2", "--eval_steps", "3"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert sft(model, whole, *flags) == 0
    command = [sys.executable, "-m", "actune", *command_line(model, broken, *flags)]
    # The same thread count, whatever other tests left this process with: sums depend on it.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        wait_for(broken / "checkpoint-4" / "state.json")
    finally:
        process.kill()
        process.wait()
    assert not (broken / "adapter").exists()
    assert sft(model, broken, *flags, "--resume", "auto") == 0
    weights = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (whole, broken)]
    assert weights[0] == weights[1]
    metrics = [
        [
            {key: value for key, value in json.loads(line).items() if key in ("step", "loss", "grad_norm", "eval")}
            for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for folder in (whole, broken)
    ]
    assert metrics[0] == metrics[1]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    flags = ["--save_steps", "2", "--max_steps", "4", "--logging_steps", "1"]
    assert sft(model, run, *flags, "--resume", "auto") == 0
    assert "no complete checkpoint yet: training starts from the beginning" in capsys.readouterr().err.replace(
        "\n", " "
    )
    wanted = (run / "adapter/adapter_model.safetensors").read_bytes()
    for number, name in enumerate(("checkpoint-4", "checkpoint-2")):
        path = run / name / "adapter_model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        if number == 0:
            assert sft(model, run, *flags, "--resume", str(run / name)) == 1
            message = capsys.readouterr().err
            assert "has other content than was written" in message
            assert "checkpoint-2" in message.partition("fix:")[2]
            assert sft(model, run, *flags, "--resume", "auto") == 0
            message = " ".join(capsys.readouterr().err.split())
            assert "checkpoint-4 is damaged and passed over: adapter_model.safetensors has other content" in message
            assert (run / "set-aside-checkpoint-4").is_dir()
            assert (run / "adapter/adapter_model.safetensors").read_bytes() == wanted
            shutil.rmtree(run / "checkpoint-4")
    before = (run / "metrics.jsonl").read_bytes()
    assert sft(model, run, *flags, "--resume", "auto") == 1
    assert "is sound" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


def wait_for(file: Path) -> None:
    for _ in range(1200):
        if file.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{file} did not appear in a minute")

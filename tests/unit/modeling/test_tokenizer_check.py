"""A saved tokenizer gives the ids of tokenizer.json whoever loads it; what differs is found and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from actune.core.errors import ModelError
from actune.core.types import Conversation, Message, Source
from actune.modeling.load import load_model
from actune.modeling.tokenizer_check import check_same_tokenizer, check_saved_tokenizer, probe_texts
from actune.modeling.tokenizer_files import TokenizerSaver
from actune.render.chat import load_renderer
from actune.render.dialects import ChatDialect, ReactDialect
from actune.render.tokenizer import TextTokenizer, load_templates, save_tokenizer

WITH_BOS = (
    "{{- bos_token }}{%- for m in messages %}{{- '[' + m.role + ']' + m.content }}"
    "{%- if m.role == 'assistant' %}{{- eos_token }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}"
)
WITHOUT_BOS = WITH_BOS.removeprefix("{{- bos_token }}")


def write_sentencepiece_like(folder: Path, *, template: str = WITH_BOS) -> Path:
    """A tokenizer of the kind that LlamaTokenizer rebuilds: a blank as part of words, and a BOS by post-processor."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, max_token_length=8
    )
    tokenizer.train_from_iterator(["Hello world, it is sunny today.", "a  b   c 0123456789", "How is it?"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<|call|>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def set_class(folder: Path, name: str) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"tokenizer_class": name}), encoding="utf-8")


def save(base: Path, folder: Path) -> TextTokenizer:
    folder.mkdir()
    tokenizer = TextTokenizer.from_folder(base)
    save_tokenizer(tokenizer, load_templates(base, tokenizer), folder)
    return tokenizer


@pytest.mark.parametrize("kind", [None, "llama", "phi3", "qwen3", "gpt2", "gemma2"])
def test_what_is_saved_is_read_the_same_beside_any_config(tmp_path: Path, kind: str | None):
    base = write_sentencepiece_like(tmp_path / "base")
    if kind is not None:
        (base / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    tokenizer = save(base, tmp_path / "saved")
    verdict = check_saved_tokenizer(tmp_path / "saved", tokenizer)
    assert (verdict.fault, verdict.note) == (None, None)


@pytest.mark.parametrize("name", ["LlamaTokenizer", "GPT2Tokenizer"])
def test_a_class_that_rebuilds_the_tokenizer_is_found(tmp_path: Path, name: str):
    tokenizer = save(write_sentencepiece_like(tmp_path / "base"), tmp_path / "saved")
    set_class(tmp_path / "saved", name)
    fault = check_saved_tokenizer(tmp_path / "saved", tokenizer).fault
    assert fault is not None
    assert name in fault
    assert "gives other ids" in fault
    assert "instead of" in fault


def test_a_config_that_overrules_the_class_is_found(tmp_path: Path):
    # transformers does not believe a tokenizer_config.json beside a model of this type.
    base = write_sentencepiece_like(tmp_path / "base")
    (base / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    tokenizer = save(base, tmp_path / "adapter")
    verdict = check_saved_tokenizer(tmp_path / "adapter", tokenizer)
    assert verdict.fault is None
    assert "with the model's config.json" in str(verdict.note)
    shutil.copyfile(base / "config.json", tmp_path / "adapter" / "config.json")
    assert "Qwen2Tokenizer" in str(check_saved_tokenizer(tmp_path / "adapter", tokenizer).fault)


def test_nothing_is_raised_for_a_folder_that_does_not_load(tmp_path: Path):
    tokenizer = save(write_sentencepiece_like(tmp_path / "base"), tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "does not load" in str(check_saved_tokenizer(tmp_path / "saved", tokenizer).fault)


def test_every_added_token_is_in_a_probe(tmp_path: Path):
    tokenizer = TextTokenizer.from_folder(write_sentencepiece_like(tmp_path))
    probes = "\0".join(probe_texts([tokenizer]))
    assert all(token in probes for token in ("<unk>", "<s>", "</s>", "<|call|>"))


def test_a_fault_is_said_once_and_remembered(tmp_path: Path):
    base = write_sentencepiece_like(tmp_path / "base")
    said: list[str] = []
    saver = TokenizerSaver(load_renderer(base), None, say=said.append)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
        saver(tmp_path / name)
        assert (tmp_path / name / "tokenizer.json").is_file()
    assert saver.faulty
    assert sum("WARNING" in line for line in said) == 1


def test_the_tokenizer_of_an_adapter_has_to_be_the_one_of_its_base(tmp_path: Path):
    base = write_sentencepiece_like(tmp_path / "base")
    save(base, tmp_path / "adapter")
    check_same_tokenizer(tmp_path / "adapter", base)
    # Written in another layout, it still encodes the same.
    path = tmp_path / "adapter" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content), encoding="utf-8")
    check_same_tokenizer(tmp_path / "adapter", base)
    content["added_tokens"][-1]["content"] = "<|other|>"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="trained with another tokenizer"):
        check_same_tokenizer(tmp_path / "adapter", base)
    path.unlink()  # an adapter without one uses that of the base
    check_same_tokenizer(tmp_path / "adapter", base)


@pytest.mark.parametrize("template", [WITH_BOS, WITHOUT_BOS])
@pytest.mark.parametrize("react", [False, True])
def test_a_prompt_has_the_bos_of_its_template_and_no_other(tmp_path: Path, template: str, react: bool):
    base = write_sentencepiece_like(tmp_path / "base", template=template)
    renderer = load_renderer(base)
    dialect = ReactDialect(renderer, "en") if react else ChatDialect(renderer)
    messages = (
        Message(role="user", content="How is it?"),
        Message(role="assistant", content="It is sunny."),
        Message(role="user", content=" it is"),
        Message(role="assistant", content="a b"),
    )
    row = Conversation(messages=messages, source=Source(file="x", line=1))
    bos = renderer.tokenizer.token_id("<s>")
    for index in (1, 3):
        ids = renderer.tokenizer.encode(dialect.prompt(row, index))
        assert ids.count(bos) == (template == WITH_BOS)
        assert (ids[0] == bos) == (template == WITH_BOS)
    if not react:  # what servers send
        save(base, tmp_path / "saved")
        loaded = AutoTokenizer.from_pretrained(tmp_path / "saved", local_files_only=True)
        chat = [{"role": message.role, "content": message.content} for message in messages[:3]]
        sent = loaded.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert ids == sent


@pytest.fixture
def no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any question on stdin fails the test."""

    def ask(*_: object) -> str:
        raise AssertionError("asked on stdin")

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr("transformers.dynamic_module_utils.signal.signal", ask)


@pytest.mark.usefixtures("no_questions")
def test_a_folder_with_own_code_is_never_asked_about(tmp_path: Path):
    base = write_sentencepiece_like(tmp_path / "base")
    config = LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((base / name).read_text(encoding="utf-8"))
        (base / name).write_text(json.dumps(content | {"auto_map": own}), encoding="utf-8")
    # transformers has this architecture, so the code is not looked at.
    load_model(base, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = save(base, tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text(encoding="utf-8"))
    verdict = check_saved_tokenizer(tmp_path / "saved", tokenizer)
    assert verdict.fault is None
    content = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps(content | {"model_type": "own"}), encoding="utf-8")
    with pytest.raises(ModelError, match="its own Python code"):
        load_model(base, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["minimind", "mistral-v3", "phi-3-mini-4k", "qwen-7b-chat", "qwen2.5", "qwen3"])
def test_real_tokenizers(shared: Path, tmp_path: Path, name: str):
    base = tmp_path / "base"
    shutil.copytree(shared / "assets" / "tokenizers" / name, base, copy_function=shutil.copyfile)
    upstream = base / "tokenizer_config.upstream.json"
    if upstream.is_file():
        upstream.replace(base / "tokenizer_config.json")
    (base / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    tokenizer = save(base, tmp_path / "saved")
    verdict = check_saved_tokenizer(tmp_path / "saved", tokenizer)
    assert (verdict.fault, verdict.note) == (None, None)

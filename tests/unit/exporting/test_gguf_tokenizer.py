"""Tokenizers for llama.cpp: named by their pattern, refused where the ids would differ."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from actune.core.errors import ConfigError
from actune.exporting.gguf_tokenizer import BYTE, CONTROL, UNKNOWN, build_tokenizer
from actune.exporting.pretokenizers import find_pre_tokenizer
from actune.render.chat import load_renderer

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split(pattern: str, **changes) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} | changes


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@pytest.mark.parametrize(
    ("pre", "ignores", "name"),
    [
        (GPT2, False, "gpt-2"),
        (sequence(GPT2), False, "gpt-2"),
        (sequence({"type": "Digits", "individual_digits": True}, GPT2), False, "smollm"),
        (sequence(split(QWEN), BYTES), False, "qwen2"),
        (sequence(split(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), BYTES), True, "llama-bpe"),
        (sequence(split(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), BYTES), False, "dbrx"),
        (sequence(split(QWEN), BYTES), True, None),
        (sequence(split(QWEN, invert=True), BYTES), False, None),
        (sequence(split(QWEN, behavior="Removed"), BYTES), False, None),
        (sequence(split(r"\w+"), BYTES), False, None),
        (sequence({"type": "Digits", "individual_digits": False}, GPT2), False, None),
        (GPT2 | {"add_prefix_space": True}, False, None),
        ({"type": "Whitespace"}, False, None),
        (None, False, None),
    ],
)
def test_the_pattern_decides_the_name(pre: dict | None, ignores: bool, name: str | None):
    found, why = find_pre_tokenizer(pre, ignores_merges=ignores)
    assert found == name
    assert bool(why) is (name is None)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda content: content["model"].update(type="Unigram"), "Unigram"),
        (lambda content: content.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda content: content["added_tokens"][1].update(rstrip=True), "rstrip"),
        (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), "ByteLevel"),
    ],
)
def test_other_tokenizers_are_refused(tools_folder: Path, tmp_path: Path, edit, words: str):
    shutil.copytree(tools_folder, tmp_path, dirs_exist_ok=True)
    renderer = load_renderer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    edit(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        build_tokenizer(renderer, vocabulary=600, begins_with_bos=False, advice="")


def test_more_tokens_than_rows_are_refused(tools_folder: Path):
    with pytest.raises(ConfigError, match="100 rows"):
        build_tokenizer(load_renderer(tools_folder), vocabulary=100, begins_with_bos=False, advice="")


def write_sentencepiece(folder: Path, source: Path, merges: list[str]) -> Path:
    """A tokenizer of the Llama 2 kind: byte tokens, pieces with a lower bar, merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    shutil.copytree(source, folder, dirs_exist_ok=True)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *"▁abcdehlo"]
    pieces += [merge.replace(" ", "") for merge in merges]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False) for text in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_merges_become_scores_where_both_come_to_the_same(tools_folder: Path, tmp_path: Path):
    renderer = load_renderer(write_sentencepiece(tmp_path, tools_folder, ["▁ h", "l l", "▁h e", "ll o", "▁he llo"]))
    built = build_tokenizer(renderer, vocabulary=300, begins_with_bos=False, advice="")
    kinds, scores = (dict(zip(built.tokens, values, strict=True)) for values in (built.kinds, built.scores))
    assert (built.model, built.add_space_prefix) == ("llama", True)
    assert scores["▁h"] > scores["ll"] > scores["▁he"] > scores["llo"] > scores["▁hello"]
    assert (kinds["<0x0A>"], kinds["<unk>"], kinds["<s>"]) == (BYTE, UNKNOWN, CONTROL)


@pytest.mark.parametrize(
    ("merges", "words"),
    [
        (["▁ h", "▁h e", "h e"], "not|two places"),
        (["a b", "c d", "b c", "ab c", "e h", "a bc"], "two places"),
    ],
)
def test_merges_that_scores_do_not_say_are_refused(tools_folder: Path, tmp_path: Path, merges: list[str], words: str):
    renderer = load_renderer(write_sentencepiece(tmp_path, tools_folder, merges))
    if merges[0] == "▁ h":  # "▁" + "he" makes "▁he" too, and is not in the list
        words = "would merge"
    with pytest.raises(ConfigError, match=words):
        build_tokenizer(renderer, vocabulary=300, begins_with_bos=False, advice="")


@pytest.mark.shared
@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama.cpp's binding is not installed")
@pytest.mark.parametrize("name", ["minimind", "qwen3", "mistral-v3"])
def test_llama_cpp_gives_the_ids_of_real_tokenizers(export_kit: ModuleType, shared: Path, tmp_path: Path, name: str):
    import torch
    from transformers import AutoModelForCausalLM

    from actune.exporting.gguf import Labels
    from actune.exporting.gguf_check import ask_llama_cpp
    from actune.exporting.gguf_folder import write_gguf_folder

    folder = export_kit.write_model(
        tmp_path / "model", shared / "assets" / "tokenizers" / name, "llama", num_hidden_layers=1
    )
    renderer = load_renderer(folder)
    written, plan = write_gguf_folder(folder, tmp_path, renderer, kind=None, labels=Labels(name="tiny"), advice="")
    ids = torch.arange(5, 25)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(ids.unsqueeze(0)).logits[0].float()
    difference, other = ask_llama_cpp(written.path, ids, expected, renderer.tokenizer)
    assert difference < 1e-4
    # "</s>" is an ordinary text for Qwen, and the end of an answer for llama.cpp: said beforehand.
    assert other is None or ("</s>" in other and any("</s>" in one for one in plan.notices))

"""From a model folder to a folder with its GGUF file, and beside it what the file cannot say."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from actune.exporting.families import Outline, read_outline
from actune.exporting.gguf import GgufType, Labels, Written, check_weights, nearest_type, write_gguf
from actune.exporting.gguf_tokenizer import GgufTokenizer, build_tokenizer
from actune.exporting.weights import open_weights
from actune.render.chat import ChatRenderer

# Texts that llama.cpp takes for the end of an answer wherever a vocabulary has them (`llama-vocab.cpp`, auto-detection).
_ALWAYS_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "</s>",
    "<|eom_id|>", "<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model that can be written as GGUF: its outline and tokenizer; `notices` are what a user should know."""

    outline: Outline
    tokenizer: GgufTokenizer
    notices: tuple[str, ...]


def plan_gguf(folder: Path, renderer: ChatRenderer, *, advice: str) -> Plan:
    """Find out whether a model folder can be written exactly, before any work.

    Raises:
        ConfigError: it cannot; `advice` is the fix.
        ModelError: its files cannot be read.
    """
    outline = read_outline(folder, advice=advice)
    with open_weights(folder) as weights:
        check_weights(outline, weights, advice=advice)
    tokenizer = build_tokenizer(
        renderer, vocabulary=outline.vocabulary, begins_with_bos=begins_with_bos(renderer), advice=advice
    )
    notices = list(tokenizer.notices)
    if outline.window is not None:
        notices.append(
            f"its attention has a sliding window of {outline.window} tokens, which llama.cpp does not compute for it: the "
            f"file names {outline.window} tokens as the longest text, up to there both are the same"
        )
    loose = [text for text in _ALWAYS_ENDS if _is_plain(tokenizer, text)]
    if loose:
        notices.append(
            f"llama.cpp ends an answer at {', '.join(loose)}, which are ordinary texts for this tokenizer: where a text "
            "holds one, its ids differ there"
        )
    return Plan(outline=outline, tokenizer=tokenizer, notices=tuple(notices))


def write_gguf_folder(
    source: Path, target: Path, renderer: ChatRenderer, *, kind: GgufType | None, labels: Labels, advice: str
) -> tuple[Written, Plan]:
    """Write the model of folder `source` as `target`/model-TYPE.gguf, with its config.json beside it.

    The config says what transformers does not read of a GGUF file (how positions are stretched, the size of heads).
    """
    plan = plan_gguf(source, renderer, advice=advice)
    templates = {"default": renderer.templates.plain}
    if renderer.templates.tools != renderer.templates.plain:
        templates["tool_use"] = renderer.templates.tools
    with open_weights(source) as weights:
        chosen = kind if kind is not None else nearest_type(weights)
        path = target / f"model-{chosen}.gguf"
        written = write_gguf(
            path, plan.outline, weights, plan.tokenizer, kind=chosen, labels=labels, templates=templates
        )
    for name in ("config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    return written, plan


def begins_with_bos(renderer: ChatRenderer) -> bool:
    """Whether prompts of the chat template begin with the tokenizer's bos token."""
    from actune.core.types import Message

    bos = renderer.tokenizer.named_tokens.get("bos_token")
    return bool(bos) and renderer.render([Message(role="user", content="a")], prompt=True).startswith(str(bos))


def _is_plain(tokenizer: GgufTokenizer, text: str) -> bool:
    from actune.exporting.gguf_tokenizer import NORMAL

    return text in tokenizer.tokens and tokenizer.kinds[tokenizer.tokens.index(text)] == NORMAL

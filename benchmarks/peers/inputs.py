"""What everybody trains: a model of random weights with tokenizer and template, and real rows in every peer's format.

`make_rows` needs the standard library only; the model is made by running this file (`python inputs.py TOKENIZER OUT`)
where torch and transformers are. One text serves all: the messages of a row as they stand, rendered as ChatML. In these
rows the observations lie inside the assistant's text. The peers train on them, actune does not: it knows the format. For
equal targets there is `plain/train.jsonl`, the same rows with the format's words replaced, of which actune trains the
whole text of the assistant as well.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# The same text; marked is what TRL's `assistant_only_loss` trains.
MARKED = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- message['content'] + '<|im_end|>' + '\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# Drops the reasoning of all turns before the last question of the user, as Qwen3's own template does.
STRIPPING = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' and message.get('reasoning_content') and loop.index0 > ns.last %}"
    "{{- '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{{- message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# Words by which the format is known, and others of about as many tokens.
PLAIN_WORDS = {
    "Observation:": "Observing:",
    "Action:": "Acting:",
    "Action Input:": "Acting Input:",
    "Final Answer:": "Final Reply:",
    "access to the following APIs": "a choice of the following APIs",
}
_KINDS = {"small": "minimind", "wide": "qwen3"}  # the same body; vocabularies of 6,400 and 151,936


def tokenizer_of(kind: str, tokenizers: Path) -> Path:
    """Return the folder of the tokenizer that a kind of model (`small`, `wide`) uses."""
    return tokenizers / _KINDS[kind]


def make_rows(lines: list[str], numbers: list[int], folder: Path, *, rows: int, seed: int) -> list[int]:
    """Draw from the numbered lines, write `messages/train.jsonl` and `plain/train.jsonl`; return the numbers drawn."""
    if len(numbers) < rows:
        raise SystemExit(f"there are {len(numbers)} such rows, {rows} are wanted")
    chosen = random.Random(seed).sample(numbers, rows)
    for name, changes in (("messages", {}), ("plain", PLAIN_WORDS)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_messages([lines[number] for number in chosen], folder / name / "train.jsonl", changes)
    # How LLaMA-Factory is told where which part of a row is.
    part = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    about = {
        "file_name": str((folder / "messages" / "train.jsonl").resolve()),
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": part | {"system_tag": "system"},
    }
    (folder / "dataset_info.json").write_text(json.dumps({"rows": about}), encoding="utf-8")
    (folder / "marked.jinja").write_text(MARKED, encoding="utf-8")
    return chosen


def write_messages(lines: list[str], out: Path, changes: dict[str, str] | None = None) -> None:
    """Write ms-agent rows as messages, a line each in the same order; `changes` replaces words of their text."""
    rows = []
    for line in lines:
        messages = []
        for part in json.loads(line)["conversations"]:
            text = part["value"]
            for old, new in (changes or {}).items():
                text = text.replace(old, new)
            messages.append({"role": part["from"], "content": text})
        rows.append(json.dumps({"messages": messages}, ensure_ascii=False))
    _write(out, rows)


def make_turns(lines: list[str], folder: Path, *, rows: int, turns: int, seed: int) -> None:
    """Write rows of `turns` user turns with reasoning before each answer, twice.

    A row has the system text of a real row; its questions, reasoning (all before the final answer) and answers are those
    of real rows too. `turns.jsonl`: a row a conversation. `unrolled.jsonl`: a row a turn, with everything before it, of
    which the last answer alone is trained: the same targets in plain sequences. `stripping.jinja`: the template that
    makes the two differ.
    """
    source = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_split_row(line) for line in lines]
    answered = [part for part in parts if part is not None]
    whole, unrolled = [], []
    for _ in range(rows):
        messages: list[dict[str, object]] = [{"role": "system", "content": source.choice(answered)[0]}]
        for _, question, reasoning, content in source.sample(answered, turns):
            answer = {"role": "assistant", "reasoning_content": reasoning, "content": content}
            messages += [{"role": "user", "content": question}, answer]
            earlier = [
                message | {"train": False} if "reasoning_content" in message else message for message in messages[:-1]
            ]
            unrolled.append(json.dumps({"messages": [*earlier, answer]}, ensure_ascii=False))
        whole.append(json.dumps({"messages": messages}, ensure_ascii=False))
    _write(folder / "turns.jsonl", whole)
    _write(folder / "unrolled.jsonl", unrolled)
    (folder / "stripping.jinja").write_text(STRIPPING, encoding="utf-8")


def _split_row(line: str) -> tuple[str, str, str, str] | None:
    """Return system, first question, reasoning and final answer of a row; None where one of them is missing."""
    texts = {part["from"]: part["value"] for part in reversed(json.loads(line)["conversations"])}
    for old, new in PLAIN_WORDS.items():
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    reasoning, _, answer = texts.get("assistant", "").partition("Final Reply:")
    found = (texts.get("system", ""), texts.get("user", ""), reasoning.strip(), answer.strip())
    return found if all(found) else None


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _make_model(tokenizer: Path, out: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    known = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in known["added_tokens"]} | known["model"]["vocab"]
    size = 151936 if len(ids) > 100_000 else max(ids.values()) + 1
    config = Qwen3Config(
        vocab_size=size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).float()
    model.save_pretrained(out)
    shutil.copy(tokenizer / "tokenizer.json", out)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHATML,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {size:,} tokens in {out}")


if __name__ == "__main__":
    _make_model(Path(sys.argv[1]), Path(sys.argv[2]))

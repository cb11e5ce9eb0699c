"""Train a small tokenizer on the example texts, so that a first run needs no download.

Byte-level BPE with the pre-tokenisation pattern of Qwen2, the ChatML control tokens and a plain ChatML chat template
(chat only, no tools, history kept as it is). For trying things out: a real run uses the tokenizer of its model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Source: the Split pattern in tokenizer.json of Qwen2 (Apache-2.0): contractions, words, single digits, symbols, space.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def read_texts(folder: Path) -> Iterator[str]:
    """Yield every string value of the jsonl files in `folder`, in the order of file names and lines."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from _strings(json.loads(line))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Return a trained tokenizer; every byte has a token, so any text can be encoded and comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    # No normaliser: decode(encode(text)) == text for every text.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, the two files that transformers and actune read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def main() -> int:
    """Run the script; 2 when the output folder is not empty or there are no texts."""
    parser = argparse.ArgumentParser(description="Train a small tokenizer on the example texts.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--data", type=Path, default=EXAMPLES, help="folder with jsonl files (default: examples)")
    parser.add_argument("--vocab_size", type=int, default=2000, help="number of tokens at most (default: 2000)")
    arguments = parser.parse_args()
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        print(f"{arguments.out} is not an empty folder; choose another --out", file=sys.stderr)
        return 2
    if not any(True for _ in read_texts(arguments.data)):
        print(f"{arguments.data} has no jsonl files with text; check --data", file=sys.stderr)
        return 2
    tokenizer = train_tokenizer(read_texts(arguments.data), arguments.vocab_size)
    write_tokenizer(tokenizer, arguments.out)
    print(f"{arguments.out}: {tokenizer.get_vocab_size()} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())

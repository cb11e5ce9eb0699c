"""Tokens per second of the in-process engine: one request, eight at once, several turns with and without reuse.

Compare numbers of one run only: `python benchmarks/engine.py [--layers 8] [--width 512] [--prompt 600] [--output 64]`.
The model is random; its speed is that of a trained one of the same size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen3Config

from actune.agents.engines.engine import Request
from actune.agents.engines.local import LocalEngine
from actune.modeling.load import pick_device, pick_dtype
from actune.render.dialects import Stops
from actune.render.tokenizer import TextTokenizer


def main() -> None:
    options = read_options()
    device = pick_device()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32_000,
        hidden_size=options.width,
        intermediate_size=3 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        num_key_value_heads=max(1, options.width // 128),
        head_dim=64,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=pick_dtype("AUTO", device)).to(device).eval()
    tokenizer = build_tokenizer()
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.1f} M parameters, {model.dtype}, {device}, {torch.get_num_threads()} threads")
    prompts = [torch.randint(3, 256, (options.prompt,)).tolist() for _ in range(8)]

    plain = LocalEngine(model, tokenizer, cache_tokens=0)
    kept = LocalEngine(model, tokenizer, cache_tokens=65_536)
    plain.generate([ask(prompts[0][:50], 4)])  # warm up
    rows = [
        ("one request", lambda: run(plain, [prompts[0]], options.output)),
        ("eight one by one", lambda: sum(run(plain, [prompt], options.output) for prompt in prompts)),
        ("eight in a batch", lambda: run(plain, prompts, options.output)),
        ("six turns, computed anew", lambda: run_turns(plain, prompts[0], options.output)),
        ("six turns, with reuse", lambda: run_turns(kept, prompts[0], options.output)),
        ("four choices, 20 questions", lambda: run_choices(plain, prompts[0])),
    ]
    print(f"{'':28}{'tokens':>8}{'seconds':>9}{'tokens/s':>10}")
    for name, work in rows:
        tokens, seconds = measure(work)
        print(f"{name:28}{tokens:8d}{seconds:9.2f}{tokens / seconds:10.1f}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=600, help="tokens")
    parser.add_argument("--output", type=int, default=64, help="tokens")
    return parser.parse_args()


def build_tokenizer() -> TextTokenizer:
    """One token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(str(Path(folder) / "tokenizer.json"))
        return TextTokenizer.from_folder(Path(folder))


def ask(prompt: list[int], count: int) -> Request:
    return Request(prompt=prompt, stops=Stops(tokens=frozenset(), words=("Observation:",)), max_tokens=count)


def run(engine: LocalEngine, prompts: list[list[int]], count: int) -> int:
    return sum(found.tokens for found in engine.generate([ask(prompt, count) for prompt in prompts]))


def run_turns(engine: LocalEngine, prompt: list[int], count: int) -> int:
    """Six outputs; each prompt is the one before, what was put out (of the same length) and 100 tokens from outside."""
    tokens = 0
    for turn in range(6):
        tokens += run(engine, [prompt], count)
        generator = torch.Generator().manual_seed(turn)
        prompt = prompt + torch.randint(3, 256, (count + 100,), generator=generator).tolist()
    return tokens


def run_choices(engine: LocalEngine, prompt: list[int]) -> int:
    """Score four choices of one token each after 20 prompts of 200 tokens; counts the prompts' tokens."""
    for question in range(20):
        start = [question + 3, *prompt[:199]]
        engine.score([(start, [choice]) for choice in (5, 6, 7, 8)])
    return 20 * 200


def measure(work: Callable[[], int]) -> tuple[int, float]:
    started = time.perf_counter()
    tokens = work()
    return tokens, time.perf_counter() - started


if __name__ == "__main__":
    main()

"""Make the tiny base model that the demo fine-tunes: tokenizer, training, measured skills, files of the package.

    python scripts/make_tiny_base.py tokenizer --out runs/tiny
    python scripts/make_tiny_base.py train --out runs/tiny --steps 3000      # goes on where it stopped
    python scripts/make_tiny_base.py measure --out runs/tiny
    python scripts/make_tiny_base.py export --out runs/tiny --to src/actune/demo/model

Everything is seeded: the batch of step n is written by rules from the seed n alone, so a run that goes on sees what an
uninterrupted one sees. No text is downloaded.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from actune.demo.text import Turn, write_conversations

TEMPLATE = Path(__file__).with_name("tiny_base_template.jinja")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ADDED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_WARMUP, _COOLDOWN = 100, 0.35
_SEED = 20_000


def make_tokenizer(out: Path, vocabulary: int) -> None:
    """Train a byte-level BPE on the first conversations and write the tokenizer's files."""
    tokenizer = Tokenizer(models.BPE())
    plain = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # Merges are learnt on single Chinese characters only, so a name is cut the same way wherever it stands. Without
    # a merge across characters the plain pre-tokenizer that is saved cuts alike.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"), "isolated"), plain]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(_ADDED),
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    conversations = write_conversations(_SEED, 0.7)
    tokenizer.train_from_iterator((text for _ in range(60_000) for _, text in next(conversations)), trainer)
    tokenizer.pre_tokenizer = plain
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in _ADDED])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    template = TEMPLATE.read_text(encoding="utf-8")
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens in {out}")


class Encoder:
    """Turns conversations into token ids and the positions that are trained."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.start, self.end = (tokenizer.token_to_id(token) for token in _SPECIAL[1:])
        self.line = tokenizer.encode("\n").ids

    def encode(self, turns: list[Turn]) -> tuple[list[int], list[bool]]:
        """Return ids in the layout of the chat template, and which of them are the assistant's own."""
        pieces = [f"{role}\n{text}" if role != "assistant" else text for role, text in turns]
        ids, own = [], []
        for (role, _), piece in zip(turns, self.tokenizer.encode_batch(pieces), strict=True):
            head = [self.start] + (self.tokenizer.encode("assistant\n").ids if role == "assistant" else [])
            ids += [*head, *piece.ids, self.end, *self.line]
            trained = role == "assistant"
            own += [False] * len(head) + [trained] * (len(piece.ids) + 1) + [False] * len(self.line)
        return ids, own


def make_batch(encoder: Encoder, step: int, level: float, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Return ids and trained positions of one step, (rows, length) each; a pure function of the step."""
    conversations = write_conversations(step, level)
    ids = torch.zeros(rows, length, dtype=torch.long)
    own = torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        filled = 0
        while filled < length:
            more, trained = encoder.encode(next(conversations))
            more, trained = more[: length - filled], trained[: length - filled]
            ids[row, filled : filled + len(more)] = torch.tensor(more)
            own[row, filled : filled + len(more)] = torch.tensor(trained)
            filled += len(more)
    return ids, own


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is made orthogonal, in fp32.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers" (coefficients, five iterations, Nesterov). PyTorch's
    own computes in bfloat16, which most CPUs emulate: measured 50 times slower here.
    """

    def __init__(self, parameters: Iterator[Tensor] | list[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every matrix."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(state["momentum"], group["momentum"])
                scale = math.sqrt(max(1.0, weight.shape[0] / weight.shape[1]))
                weight.mul_(1 - group["lr"] * 0.01).add_(_orthogonalise(update), alpha=-group["lr"] * scale)


def _orthogonalise(matrix: Tensor) -> Tensor:
    """Return the nearest matrix with orthonormal rows or columns, roughly (quintic Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def build_model(options: argparse.Namespace, vocabulary: int, encoder: Encoder) -> LlamaForCausalLM:
    """Return the model with seeded random weights."""
    torch.manual_seed(_SEED)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        head_dim=options.hidden // options.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=encoder.end,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def train(options: argparse.Namespace) -> None:
    """Train, saving a checkpoint every few minutes; goes on from the last one."""
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(str(options.out / "tokenizer.json"))
    encoder = Encoder(tokenizer)
    model = build_model(options, -(-tokenizer.get_vocab_size() // 64) * 64, encoder)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights", flush=True)
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim < 2 or "embed" in name]
    optimisers = [
        Muon(matrices, lr=options.rate),
        torch.optim.AdamW(others, lr=options.other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    peaks = [options.rate, options.other_rate]
    step, seen, spent = 0, 0, 0.0
    saved = options.out / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, values in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(values)
        step, seen, spent = state["step"], state["seen"], state["spent"]
        print(f"goes on at step {step}", flush=True)
    losses, began = [], time.monotonic() - spent
    while step < options.steps:
        share = step / options.steps
        rows, length, level = plan_step(share, options)
        factor = min(1.0, (step + 1) / _WARMUP, (1 - share) / _COOLDOWN)
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
        ids, own = make_batch(encoder, step, level, rows, length)
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        chosen = own[:, 1:]
        logits = model.lm_head(hidden[chosen])
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][chosen])
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        losses.append(loss.item())
        seen += ids.numel()
        step += 1
        if step % 50 == 0:
            now = time.monotonic() - began
            line = {"step": step, "loss": round(sum(losses) / len(losses), 4), "tokens": seen, "seconds": round(now), "level": round(level, 2)}
            print(json.dumps(line), flush=True)
            losses = []
        if step % options.save_every == 0 or step == options.steps:
            state = {"model": model.state_dict(), "optimisers": [optimiser.state_dict() for optimiser in optimisers]}
            state |= {"step": step, "seen": seen, "spent": time.monotonic() - began}
            torch.save(state, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)


def plan_step(share: float, options: argparse.Namespace) -> tuple[int, int, float]:
    """Return rows, their length and the level of difficulty for a share of the training."""
    level = min(1.0, share / options.ramp)
    length = 256 if share < 0.25 * options.ramp else 512 if share < options.ramp else 1024
    return options.tokens // length, length, level


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make the demo's tiny base model.")
    parser.add_argument("work", choices=("tokenizer", "train", "measure", "export"))
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--to", type=Path, help="export: folder of the model")
    parser.add_argument("--vocabulary", type=int, default=3072)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--intermediate", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--kv_heads", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens a step")
    parser.add_argument("--rate", type=float, default=0.02, help="peak learning rate of the matrices")
    parser.add_argument("--other_rate", type=float, default=3e-3, help="peak learning rate of embedding and norms")
    parser.add_argument("--ramp", type=float, default=0.5, help="share of the steps in which difficulty rises")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save_every", type=int, default=200)
    return parser.parse_args()


def main() -> int:
    """Do one piece of the work."""
    options = parse_options()
    if options.work == "tokenizer":
        make_tokenizer(options.out, options.vocabulary)
    elif options.work == "train":
        train(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Make the tiny base model that the demo fine-tunes: tokenizer, training, measured skills, files of the package.

    python scripts/make_tiny_base.py tokenizer --out runs/tiny
    python scripts/make_tiny_base.py train --out runs/tiny      # goes on where it stopped
    python scripts/make_tiny_base.py refine --out runs/tiny     # a second, short training on directories of every shape
    python scripts/make_tiny_base.py measure --out runs/tiny
    python scripts/make_tiny_base.py export --out runs/tiny --to src/actune/demo/model

Everything is seeded: the chats of step n are written by rules from the seed n alone, so a run that goes on sees what an
uninterrupted one sees. No text is downloaded. docs/tiny_base.md says what the published model was made with.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from actune.demo.chats import DICTIONARY
from actune.demo.skills import write_skills
from actune.demo.text import Turn, write_chats

TEMPLATE = Path(__file__).with_name("tiny_base_template.jinja")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ADDED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_ROLES = ("system", "user", "assistant", "tool")
_SEED = 20_000
_DEFAULTS = {
    "train": {"steps": 1979, "tokens": 65_536, "rate": 0.02, "other_rate": 3e-3, "warmup": 100, "cooldown": 0.4},
    "refine": {"steps": 1200, "tokens": 8192, "rate": 0.01, "other_rate": 1.5e-3, "warmup": 30, "cooldown": 1.0},
}
_CHECKPOINTS = {"train": "checkpoint.pt", "refine": "refined.pt"}
_VARIED = 2.0  # the level of chats in the second training
_ALIGN = 32  # lengths are padded to it: fewer shapes, for each of which a GPU chooses kernels anew
_AHEAD = 4  # steps that a worker may be ahead

Chat = tuple[np.ndarray, np.ndarray]
"""Token ids of a chat, and which of them are trained, both (length)."""


# --- tokenizer ------------------------------------------------------------------------------------------------------


def make_tokenizer(out: Path, vocabulary: int) -> None:
    """Train a byte-level BPE on the first chats and write the tokenizer's files."""
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
    tokenizer.train_from_iterator(_tokenizer_texts(), trainer)
    tokenizer.pre_tokenizer = plain
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in _ADDED])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens in {out}")


def _tokenizer_texts() -> Iterator[str]:
    chats = write_chats(_SEED, 0.7)
    for _ in range(40_000):
        for role, text in next(chats):
            yield f"{role}\n{text}"
    # Words that instructions are made of, often enough to become tokens.
    for word, meaning, zh in DICTIONARY:
        for said in (word, word.capitalize()):
            yield from (f" {said}", said, f" {said}: {meaning}, {zh}") * 400


# --- text to token ids ----------------------------------------------------------------------------------------------


class Encoder:
    """Turns chats into token ids in the layout of the chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.start, self.end = (tokenizer.token_to_id(token) for token in _SPECIAL[1:])
        self.head = np.array([self.start, *tokenizer.encode("assistant\n").ids])

    def encode(self, chats: list[list[Turn]]) -> list[Chat]:
        """Return ids and trained positions: the assistant's own text with the end of its turn."""
        texts = ["".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) for turns in chats]
        return [self._mark(np.array(encoding.ids)) for encoding in self.tokenizer.encode_batch(texts)]

    def _mark(self, ids: np.ndarray) -> Chat:
        trained = np.zeros(len(ids), dtype=bool)
        ends = np.flatnonzero(ids == self.end)
        for start in np.flatnonzero(ids == self.start):
            first = start + len(self.head)
            if np.array_equal(ids[start:first], self.head):
                trained[first : ends[np.searchsorted(ends, first)] + 1] = True
        return ids, trained


def make_step(encoder: Encoder, seed: int, level: float, tokens: int) -> list[Chat]:
    """Return the chats of a step, about `tokens` tokens, shortest first; a function of its arguments alone."""
    source = write_chats(seed, level)
    chats: list[Chat] = []
    total = 0
    while total < tokens:
        more = encoder.encode([next(source) for _ in range(32)])
        total += sum(len(ids) for ids, _ in more)
        chats += more
    return sorted(chats, key=lambda chat: len(chat[0]))


def lay_out(chats: list[Chat], tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and trained positions of micro-batches, (rows, length), padded on the right.

    Attention is causal, so padding on the right needs no mask: nothing trained stands behind it.
    """
    rows: list[Chat] = []
    for number, chat in enumerate(chats):
        rows.append(chat)
        length = len(chat[0])
        nxt = len(chats[number + 1][0]) if number + 1 < len(chats) else 0
        if not nxt or (len(rows) + 1) * nxt > tokens:
            ids = torch.zeros(len(rows), length, dtype=torch.long)
            trained = torch.zeros(len(rows), length, dtype=torch.bool)
            for row, (one, marks) in enumerate(rows):
                ids[row, : len(one)] = torch.from_numpy(one)
                trained[row, : len(one)] = torch.from_numpy(marks)
            yield ids, trained
            rows = []


def level_of(step: int, options: argparse.Namespace) -> float:
    """Return the difficulty of the chats of a step; see `write_chats`."""
    return _VARIED if options.work == "refine" else min(1.0, step / (options.ramp * options.steps))


def seed_of(step: int, options: argparse.Namespace) -> int:
    """Return the seed of the chats of a step; the two trainings share none."""
    return step + (1_000_000 if options.work == "refine" else 0)


def chats_of(encoder: Encoder, step: int, options: argparse.Namespace) -> list[Chat]:
    """Return the chats of a step."""
    return make_step(encoder, seed_of(step, options), level_of(step, options), options.tokens)


def _work(place: Path, options: argparse.Namespace, first: int, queue: multiprocessing.Queue[list[Chat]]) -> None:
    encoder = Encoder(Tokenizer.from_file(str(place / "tokenizer.json")))
    for step in range(first, options.steps, options.workers):
        queue.put(chats_of(encoder, step, options))


@contextmanager
def steps_from(start: int, options: argparse.Namespace) -> Iterator[Iterator[list[Chat]]]:
    """Give the chats of every step from `start` on, written by worker processes or, with none, in this one.

    The processes are forks, so that none imports torch anew: none may touch a device or a thread of this process.
    """
    if options.workers == 0:
        encoder = Encoder(Tokenizer.from_file(str(options.out / "tokenizer.json")))
        yield (chats_of(encoder, step, options) for step in range(start, options.steps))
        return
    context = multiprocessing.get_context("fork")
    queues = [context.Queue(_AHEAD) for _ in range(options.workers)]
    workers = [
        context.Process(target=_work, args=(options.out, options, start + number, queue), daemon=True)
        for number, queue in enumerate(queues)
    ]
    for worker in workers:
        worker.start()
    try:
        yield (queues[number % options.workers].get(timeout=600) for number in range(options.steps - start))
    finally:
        for worker in workers:
            worker.terminate()


# --- training -------------------------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is made orthogonal; matrices of one shape are computed together.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers" (coefficients, five iterations, Nesterov). PyTorch's
    own computes in bfloat16, which most CPUs emulate: measured 50 times slower there.
    """

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every matrix."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                shapes[weight.shape].append(weight)
            for shape, weights in shapes.items():
                updates = torch.stack([self._direction(weight, group["momentum"]) for weight in weights])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for weight, update in zip(weights, _orthogonalise(updates), strict=True):
                    weight.mul_(1 - group["lr"] * 0.01).add_(update, alpha=-group["lr"] * scale)

    def _direction(self, weight: Tensor, momentum: float) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(state["momentum"], momentum)


def _orthogonalise(matrices: Tensor) -> Tensor:
    """Return the nearest matrices with orthonormal rows or columns, roughly (quintic Newton-Schulz); (n, rows, columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def build_model(options: argparse.Namespace, vocabulary: int, end: int) -> LlamaForCausalLM:
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
        eos_token_id=end,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def sum_loss(model: LlamaForCausalLM, ids: Tensor, trained: Tensor) -> Tensor:
    """Return the summed loss of the trained tokens of a micro-batch."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    chosen = trained[:, 1:]
    logits = model.lm_head(hidden[chosen]).float()
    return nn.functional.cross_entropy(logits, ids[:, 1:][chosen], reduction="sum")


def read_checkpoint(options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Return the newest checkpoint for a piece of work, empty if there is none.

    The second training goes on from the weights of the first, with new optimisers and a schedule of its own.
    """
    refined, first = options.out / _CHECKPOINTS["refine"], options.out / _CHECKPOINTS["train"]
    path = first if options.work == "train" or not refined.exists() else refined
    if not path.exists():
        return {}
    state = torch.load(path, weights_only=True, map_location=device)
    if options.work == "refine" and path == first:
        state = {"model": state["model"], "done": {"before": state["done"]["tokens"]}}
    return state


class Trainer:
    """Model, optimisers and what was done so far; saved every few minutes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        tokenizer = Tokenizer.from_file(str(options.out / "tokenizer.json"))
        self.encoder = Encoder(tokenizer)
        model = build_model(options, -(-tokenizer.get_vocab_size() // 64) * 64, self.encoder.end)
        self.model = model.to(options.device)
        named = list(self.model.named_parameters())
        matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
        self.others = [weight for name, weight in named if weight.ndim < 2 or "embed" in name]
        self.optimisers = [
            Muon(matrices, lr=options.rate),
            torch.optim.AdamW(self.others, lr=options.other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.done = {"step": 0, "tokens": 0, "trained": 0, "seconds": 0.0}
        self.saved = options.out / _CHECKPOINTS.get(options.work, "none")
        if state := read_checkpoint(options, options.device):
            self.model.load_state_dict(state["model"])
            for optimiser, values in zip(self.optimisers, state.get("optimisers", ()), strict=False):
                optimiser.load_state_dict(values)
            self.done |= state["done"]

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        optimisers = [optimiser.state_dict() for optimiser in self.optimisers]
        state = {"model": self.model.state_dict(), "optimisers": optimisers, "done": self.done}
        torch.save(state, self.saved.with_suffix(".new"))
        self.saved.with_suffix(".new").replace(self.saved)

    def take_step(self, chats: list[Chat]) -> float:
        """Train on the chats of a step; returns their mean loss."""
        options, step = self.options, self.done["step"]
        factor = min(1.0, (step + 1) / options.warmup, (1 - step / options.steps) / options.cooldown)
        for optimiser, peak in zip(self.optimisers, (options.rate, options.other_rate), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
        trained = sum(int(marks.sum()) for _, marks in chats)
        self.model.zero_grad(set_to_none=True)
        total = torch.zeros((), device=options.device)
        half = torch.autocast(options.device, torch.bfloat16, enabled=options.half)
        for ids, marks in lay_out(chats, options.micro_tokens):
            with half:
                loss = sum_loss(self.model, ids.to(options.device), marks.to(options.device)) / trained
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.others, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.done["step"] += 1
        self.done["tokens"] += sum(len(ids) for ids, _ in chats)
        self.done["trained"] += trained
        return total.item()


def train(options: argparse.Namespace) -> None:
    """Train to the last step, or until `seconds` are over; goes on from the last checkpoint."""
    start = read_checkpoint(options, "cpu").get("done", {}).get("step", 0)
    with steps_from(start, options) as steps:  # before any device is used
        torch.set_num_threads(options.threads)
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.enable_cudnn_sdp(False)  # plans every new shape for 20 ms
        trainer = Trainer(options)
        done, earlier, began = trainer.done, trainer.done["seconds"], time.monotonic()
        print(f"{sum(w.numel() for w in trainer.model.parameters()):,} weights; from step {start}", flush=True)
        losses: list[float] = []
        for chats in steps:
            losses.append(trainer.take_step(chats))
            done["seconds"] = earlier + time.monotonic() - began
            if done["step"] % options.log_every == 0:
                line = {name: round(value, 1) for name, value in done.items()}
                level = round(level_of(done["step"], options), 2)
                print(json.dumps(line | {"loss": round(sum(losses) / len(losses), 4), "level": level}), flush=True)
                losses = []
            over = options.seconds and time.monotonic() - began > options.seconds
            if done["step"] % options.save_every == 0 or done["step"] == options.steps or over:
                trainer.save()
            if over:
                break


# --- measuring and writing ------------------------------------------------------------------------------------------


@torch.inference_mode()
def measure(options: argparse.Namespace) -> None:
    """Print, for each skill, the share of answers of the model that are right to the last token.

    An answer is right when every token of it is the likeliest one after the right ones before it: then it is what
    greedy decoding writes.
    """
    torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    encoder, model = trainer.encoder, trainer.model.eval()
    result: dict[str, object] = {}
    for skill, chats in write_skills(options.items):
        right: list[bool] = []
        encoded = sorted(encoder.encode(chats), key=lambda chat: len(chat[0]))
        for ids, marks in lay_out(encoded, options.micro_tokens):
            ids, marks = ids.to(options.device), marks.to(options.device)
            best = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
            wrong = ((best != ids[:, 1:]) & _last_turn(marks)[:, 1:]).any(1)
            right += [not one for one in wrong.tolist()]
        result[skill] = round(sum(right) / len(right), 4)
    print(json.dumps(result | {"items": options.items} | trainer.done, indent=1))


def _last_turn(marks: Tensor) -> Tensor:
    """Keep only the last run of marked positions in each row."""
    later = marks.flip(1).long().cumsum(1).flip(1)  # marks from here to the end
    gaps = ((~marks) & (later > 0)).flip(1).cumsum(1).flip(1)  # unmarked positions with marks behind them, from here on
    return marks & (gaps == 0)


def export(options: argparse.Namespace) -> None:
    """Write the model in bfloat16 with its tokenizer, as transformers reads it."""
    trainer = Trainer(options)
    target = options.to
    target.mkdir(parents=True, exist_ok=True)
    model = trainer.model.to("cpu", torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=trainer.encoder.end, pad_token_id=0)
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (target / name).write_bytes((options.out / name).read_bytes())
    size = sum(file.stat().st_size for file in target.iterdir())
    print(f"{size / 2**20:.1f} MiB in {target}, after {trainer.done['step']} steps")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make the demo's tiny base model.")
    parser.add_argument("work", choices=("tokenizer", "train", "refine", "measure", "export"))
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--to", type=Path, help="export: folder of the model")
    parser.add_argument("--vocabulary", type=int, default=3072)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--intermediate", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--kv_heads", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--tokens", type=int, help="tokens a step")
    parser.add_argument("--micro_tokens", type=int, default=32_768, help="tokens of one forward pass, padding included")
    parser.add_argument("--rate", type=float, help="peak learning rate of the matrices")
    parser.add_argument("--other_rate", type=float, help="peak learning rate of embedding and norms")
    parser.add_argument("--warmup", type=int, help="steps in which the rates rise")
    parser.add_argument("--cooldown", type=float, help="share of the steps in which they fall to 0")
    parser.add_argument("--ramp", type=float, default=0.2, help="share of the steps in which difficulty rises")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="compute in bfloat16, where the processor can")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="processes that write text; 0: the training one does")
    parser.add_argument(
        "--seconds", type=float, default=0, help="train: stop after so long with a checkpoint; 0: never"
    )
    parser.add_argument("--save_every", type=int, default=200)
    parser.add_argument("--log_every", type=int, default=50)
    parser.add_argument("--items", type=int, default=400, help="measure: answers of each skill")
    options = parser.parse_args()
    for name, value in _DEFAULTS["refine" if options.work == "refine" else "train"].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.work == "export" and options.to is None:
        parser.error("export needs --to")
    return options


def main() -> int:
    """Do one piece of the work."""
    options = parse_options()
    if options.work == "tokenizer":
        make_tokenizer(options.out, options.vocabulary)
    else:
        {"train": train, "refine": train, "measure": measure, "export": export}[options.work](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

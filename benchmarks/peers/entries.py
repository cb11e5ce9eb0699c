"""How each peer is started: its own entry point, its defaults, and the fastest settings that train the same rows here.

Fixed for all: weights, rows, rows a step, rank, alpha, targets, learning rate, longest row, seed, and that the assistant's
text alone is trained (TRL would train everything). `defaults` leaves all else as the peer has it; fp32 is forced unless the
name of a configuration says bf16. To add a configuration, add a line to its table.

What was tried for `best`, in real tokens a second of processor time (one thread, the small model, steps of 4 rows of 1,750
tokens, a busy machine, so +-10 %), each without recomputation and dropout:

| TRL 1.16 | 1,190 | bf16 autocast 1,490, bf16 weights 1,450; packing 1,150 (rows nearly fill a pack); batches of 4 grouped by length 850; torch.compile: no step in 400 s |
| ms-swift 4.6 | 1,800 | bf16 weights 2,990; packing and padding-free are refused without FlashAttention |
| LLaMA-Factory 0.9.5 | 1,210 | bf16 1,650 |
| Unsloth 2026.10.9 | 1,280 | bf16 2,110-2,200 (its own default); compiled layers 1,310; it turns packing off on a CPU |

Batches of one row have no padding, and are the fastest for all of them here. In bf16 the frozen
weights are rounded and products have 8 bits: another precision than fp32, for which it is compared apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is trained, the same for everybody. `data` holds what `inputs.make_rows` wrote."""

    model: Path
    data: Path
    rows: int
    rows_a_step: int
    max_length: int
    rank: int
    alpha: int
    learning_rate: float
    seed: int

    def accumulate(self, batch: int) -> int:
        """Return how many batches make a step.

        Raises:
            SystemExit: the rows of a step are no whole number of batches.
        """
        if self.rows_a_step % batch:
            raise SystemExit(f"--rows-per-step must be a multiple of {batch}")
        return self.rows_a_step // batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is run; `environment` is added to that of this process."""

    words: list[str]
    environment: dict[str, str]


Config = dict[str, object]

# Values that are None switch a flag's line off; what begins with `env:` is an environment variable.
CONFIGS: dict[str, dict[str, Config]] = {
    "actune": {
        "defaults": {"batch_size": 2},
        "no-dropout": {"batch_size": 2, "lora_dropout_p": 0.0},
        "ALL": {"batch_size": 2, "lora_dropout_p": 0.0, "lora_target_modules": ["ALL"]},
        "plain": {"batch_size": 2, "lora_dropout_p": 0.0, "data": "plain"},
        "bf16": {"batch_size": 2, "lora_dropout_p": 0.0, "dtype": "bf16"},
        # What each part gives: rows that begin alike are computed apart; the layers are peft's.
        "no-sharing": {"batch_size": 2, "lora_dropout_p": 0.0, "share_prefixes": "false"},
        "not-fused": {"batch_size": 2, "lora_dropout_p": 0.0, "fused": "false"},
    },
    "trl": {
        "defaults": {"per_device_train_batch_size": 8, "bf16": "false"},
        "best": {
            "per_device_train_batch_size": 1,
            "bf16": "false",
            "gradient_checkpointing": "false",
            "lora_dropout": 0.0,
        },
        "best-bf16": {
            "per_device_train_batch_size": 1,
            "bf16": "true",
            "dtype": "bfloat16",
            "gradient_checkpointing": "false",
            "lora_dropout": 0.0,
        },
        "packing": {
            "per_device_train_batch_size": 1,
            "bf16": "false",
            "gradient_checkpointing": "false",
            "lora_dropout": 0.0,
            "packing": "true",
        },
        "compile": {
            "per_device_train_batch_size": 1,
            "bf16": "false",
            "gradient_checkpointing": "false",
            "lora_dropout": 0.0,
            "torch_compile": "true",
        },
        "autocast": {
            "per_device_train_batch_size": 1,
            "bf16": "true",
            "gradient_checkpointing": "false",
            "lora_dropout": 0.0,
        },
        "batch-4": {
            "per_device_train_batch_size": 4,
            "bf16": "false",
            "gradient_checkpointing": "false",
            "lora_dropout": 0.0,
            "train_sampling_strategy": "group_by_length",
        },
    },
    "ms-swift": {
        "defaults": {"per_device_train_batch_size": 1, "torch_dtype": "float32"},
        "best": {
            "per_device_train_batch_size": 1,
            "torch_dtype": "float32",
            "gradient_checkpointing": "false",
            "lora_dropout": 0,
            "use_logits_to_keep": "true",
        },
        "best-bf16": {
            "per_device_train_batch_size": 1,
            "torch_dtype": "bfloat16",
            "gradient_checkpointing": "false",
            "lora_dropout": 0,
            "use_logits_to_keep": "true",
        },
    },
    "llama-factory": {
        "defaults": {"per_device_train_batch_size": 8},
        "best": {"per_device_train_batch_size": 1, "disable_gradient_checkpointing": True},
        "best-bf16": {"per_device_train_batch_size": 1, "disable_gradient_checkpointing": True, "bf16": True},
    },
    "unsloth": {
        "defaults": {"per_device_train_batch_size": 2, "gradient_checkpointing": "unsloth", "dtype": "float32"},
        "defaults-bf16": {"per_device_train_batch_size": 2, "gradient_checkpointing": "unsloth", "dtype": None},
        "best": {"per_device_train_batch_size": 1, "gradient_checkpointing": False, "dtype": "float32"},
        "best-bf16": {"per_device_train_batch_size": 1, "gradient_checkpointing": False, "dtype": None},
        "compile": {
            "per_device_train_batch_size": 1,
            "gradient_checkpointing": False,
            "dtype": "float32",
            "env:UNSLOTH_CPU_COMPILE": 1,
        },
        "compile-bf16": {
            "per_device_train_batch_size": 1,
            "gradient_checkpointing": False,
            "dtype": None,
            "env:UNSLOTH_CPU_COMPILE": 1,
        },
    },
}


def make_command(peer: str, config: Config, work: Work, python: Path, out: Path) -> Command:
    """Return what trains `work` with a peer; files it needs are written beside `out`."""
    settings = dict(config)
    environment = {key[4:]: str(settings.pop(key)) for key in list(settings) if key.startswith("env:")}
    batch = settings.get("per_device_train_batch_size", settings.get("batch_size"))
    assert isinstance(batch, int)
    words = _ENTRIES[peer](settings, work, python, out, work.accumulate(batch))
    return Command(words=words, environment=environment)


def _start_actune(settings: Config, work: Work, python: Path, out: Path, accumulate: int) -> list[str]:
    flags = {
        "model_id_or_path": work.model,
        "dataset": work.data / str(settings.pop("data", "messages")) / "train.jsonl",
        "output_dir": out,
        "max_length": work.max_length,
        "lora_rank": work.rank,
        "lora_alpha": work.alpha,
        "lora_target_modules": list(TARGETS),
        "learning_rate": work.learning_rate,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": 1,
        "validation_ratio": 0,
        "eval_steps": 0,
        "save_steps": 0,
        "logging_steps": 1,
        "compare": "false",
        "dtype": "fp32",
        "seed": work.seed,
    }
    return [str(python), "-m", "actune", "sft", *_flags(flags | settings, repeat=True)]


def _start_trl(settings: Config, work: Work, python: Path, out: Path, accumulate: int) -> list[str]:
    flags = {
        "model_name_or_path": work.model,
        "dataset_name": work.data / "messages",
        "chat_template_path": work.data / "marked.jinja",
        "assistant_only_loss": "true",
        "use_cpu": "true",  # else bf16 is refused
        "use_peft": "true",
        "lora_r": work.rank,
        "lora_alpha": work.alpha,
        "lora_target_modules": list(TARGETS),
        "max_length": work.max_length,
    }
    trainer = _trainer(work, out, accumulate)
    return [str(python.with_name("trl")), "sft", *_flags(flags | trainer | settings)]


def _start_swift(settings: Config, work: Work, python: Path, out: Path, accumulate: int) -> list[str]:
    flags = {
        "model": work.model,
        "model_type": "qwen3",
        "template": "chatml",
        "dataset": work.data / "messages" / "train.jsonl",
        "tuner_type": "lora",
        "lora_rank": work.rank,
        "lora_alpha": work.alpha,
        "target_modules": list(TARGETS),
        "max_length": work.max_length,
        "check_model": "false",
        "use_cpu": "true",  # else bf16 is refused
    }
    trainer = _trainer(work, out, accumulate)
    return [str(python.with_name("swift")), "sft", *_flags(flags | trainer | settings)]


def _start_factory(settings: Config, work: Work, python: Path, out: Path, accumulate: int) -> list[str]:
    values = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(work.model),
        "dataset_dir": str(work.data),
        "dataset": "rows",
        "template": "chatml",
        "finetuning_type": "lora",
        "lora_rank": work.rank,
        "lora_alpha": work.alpha,
        "lora_target": ",".join(TARGETS),
        "cutoff_len": work.max_length,
        "overwrite_cache": True,
        "overwrite_output_dir": True,
        "use_cpu": True,
    }
    recipe = out.with_suffix(".yaml")  # it is JSON, which is YAML; the file name decides how it is read
    trainer = {
        key: str(value) if isinstance(value, Path) else value for key, value in _trainer(work, out, accumulate).items()
    }
    recipe.write_text(json.dumps(values | trainer | settings, indent=1), encoding="utf-8")
    return [str(python.with_name("llamafactory-cli")), "train", str(recipe)]


def _start_unsloth(settings: Config, work: Work, python: Path, out: Path, accumulate: int) -> list[str]:
    values = {
        "model": str(work.model),
        "data": str(work.data / "messages" / "train.jsonl"),
        "out": str(out),
        "max_length": work.max_length,
        "rank": work.rank,
        "alpha": work.alpha,
        "targets": list(TARGETS),
        "seed": work.seed,
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "dtype": settings["dtype"],
        "trainer": {
            "per_device_train_batch_size": settings["per_device_train_batch_size"],
            "gradient_accumulation_steps": accumulate,
            "num_train_epochs": 1,
            "learning_rate": work.learning_rate,
            "seed": work.seed,
            # TRL's own default is bf16 autocast whatever the weights are.
            **({"bf16": False} if settings["dtype"] == "float32" else {}),
        },
    }
    recipe = out.with_suffix(".json")
    recipe.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return [str(python), str(HERE / "unsloth_sft.py"), str(recipe)]


_ENTRIES: dict[str, Callable[[Config, Work, Path, Path, int], list[str]]] = {
    "actune": _start_actune,
    "trl": _start_trl,
    "ms-swift": _start_swift,
    "llama-factory": _start_factory,
    "unsloth": _start_unsloth,
}


def python_of(peer: str, made: dict[str, Path]) -> Path:
    """Return the Python that runs a peer; actune runs in this process's own environment."""
    return made.get(peer, Path(sys.executable))


def _trainer(work: Work, out: Path, accumulate: int) -> Config:
    """Return what every peer built on `transformers.Trainer` is given."""
    return {
        "output_dir": out,
        "num_train_epochs": 1,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": work.learning_rate,
        "seed": work.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def _flags(values: Config, *, repeat: bool = False) -> list[str]:
    """Return values as --name value; lists as --name a b, or with `repeat` as --name a --name b."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, list):
            parts = [str(part) for part in value]
            words += [word for part in parts for word in (f"--{name}", part)] if repeat else [f"--{name}", *parts]
        else:
            words += [f"--{name}", str(value)]
    return words

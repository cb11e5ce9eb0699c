"""Did you mean: the known name closest to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

# Names that other fine-tuning programs use for a setting of ours, where spelling alone would not lead there.
_OTHER_NAMES: Mapping[str, str] = {
    "base_model": "model_id_or_path",
    "model_name_or_path": "model_id_or_path",
    "model_path": "model_id_or_path",
    "revision": "model_revision",
    "torch_dtype": "dtype",
    "train_type": "sft_type",
    "tuner_type": "sft_type",
    "lora_r": "lora_rank",
    "lora_dropout": "lora_dropout_p",
    "target_modules": "lora_target_modules",
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "micro_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "cutoff_len": "max_length",
    "clip_grad_norm": "max_grad_norm",
    "adam_beta": "adam_beta1",
    "resume_from_checkpoint": "resume",
    "overwrite_output_dir": "overwrite",
    "out": "output_dir",
    "output": "output_dir",
    "val_size": "validation_ratio",
    "dataset_test_ratio": "validation_ratio",
    "split_dataset_ratio": "validation_ratio",
    "data": "dataset",
    "tools_prompt": "dialect",
    "agent_template": "dialect",
}


def suggest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was most likely meant to be, or None when nothing is close."""
    candidates = list(known)
    wanted = name.strip().lower().replace("-", "_")
    if wanted in candidates:
        return wanted
    other = _OTHER_NAMES.get(wanted)
    if other in candidates:
        return other
    close = difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.7)
    return close[0] if close else None

"""Checks over several settings, and notices about settings that are read differently than they look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from actune.config.fields import index_leaves
from actune.config.gpus import parse_gpu
from actune.config.settings import TRACKERS, Settings, TuningSettings
from actune.core.errors import ConfigError
from actune.core.parts import PartWeights, read_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A setting that does not fit. `name` is the one to change, `others` take part in the reason."""

    name: str
    message: str
    others: tuple[str, ...] = ()


def find_conflicts(settings: Settings) -> list[Conflict]:
    """Return everything in the settings that cannot be right together, in the order of the groups."""
    checks = (
        _check_required, _check_amounts, _check_render, _check_identity, _check_tuning, _check_monitor, _check_output,
    )  # fmt: skip
    return [conflict for check in checks for conflict in check(settings)]


def settings_notices(settings: Settings) -> list[str]:
    """Return sentences that tell the user what a setting really does here, or that it has no effect."""
    data, tuning = settings.data, settings.tuning
    notices: list[str] = []
    if tuning.tuner_backend == "swift":
        notices.append("tuner_backend swift is read as peft: the adapter is written in peft's format")
    if settings.model.trust_remote_code:
        notices.append("trust_remote_code is on: Python code that comes with the model runs with your rights")
    if (data.model_name or data.model_author) and data.self_cognition_sample == 0:
        notices.append("model_name and model_author have no effect: self_cognition_sample is 0")
    if data.train_dataset_mix_ratio == 0 and data.train_dataset_mix_ds != _default("train_dataset_mix_ds"):
        notices.append("train_dataset_mix_ds has no effect: train_dataset_mix_ratio is 0")
    notices += _weight_notices(read_weights(settings.render.loss_weights))
    notices += _tuning_notices(tuning)
    if settings.training.fsdp == "true" and tuning.sft_type == "lora":
        notices.append("fsdp has no effect: sft_type is lora, whose base each process holds whole")
    unplanned = [name for name in ("plan_gpu", "plan_processes", "plan_file") if getattr(settings.output, name)]
    if unplanned and not settings.output.dry_run:
        notices.append(f"{', '.join(unplanned)} {'has' if len(unplanned) == 1 else 'have'} no effect without dry_run")
    if settings.monitor.early_stopping_threshold and not settings.monitor.early_stopping_patience:
        notices.append("early_stopping_threshold has no effect: early_stopping_patience is 0")
    return notices


def _weight_notices(weights: PartWeights) -> Iterator[str]:
    if weights.uniform not in (None, 1.0):
        yield "loss_weights changes nothing: the loss is divided by the sum of weights, and every part has the same one"
    if weights.stop == 0:
        yield "loss_weights gives the stop weight 0: the model is not taught to end an output"


def _tuning_notices(tuning: TuningSettings) -> Iterator[str]:
    if tuning.quant_bits:
        yield (
            "quant_bits: the adapter belongs to the base in 4 bits; actune loads that base with it, and other programs "
            "get the same model from actune export --to merged"
        )
    elif not tuning.bnb_4bit_use_double_quant:
        yield "bnb_4bit_use_double_quant has no effect: quant_bits is not set"
    names = {
        "full": (
            "lora_rank",
            "lora_alpha",
            "lora_dropout_p",
            "lora_target_modules",
            "use_rslora",
            "use_dora",
            "trainable_tokens",
        ),
        "lora": ("freeze_parameters", "trainable_parameters", "train_routers"),
    }[tuning.sft_type]
    unused = [name for name in names if getattr(tuning, name) != _default(name)]
    if unused:
        verb = "has" if len(unused) == 1 else "have"
        yield f"{', '.join(unused)} {verb} no effect: sft_type is {tuning.sft_type}"


def _default(name: str) -> object:
    return index_leaves()[name].default


def _check_required(settings: Settings) -> Iterator[Conflict]:
    if not settings.model.model_id_or_path.strip():
        yield Conflict(name="model_id_or_path", message="not set; name a model folder or a hub id")
    data = settings.data
    if not data.dataset:
        yield Conflict(name="dataset", message="not set; name a file, a registry name (ms-agent) or a hub id")
    for name in ("dataset", "train_dataset_mix_ds", "model_name", "model_author"):
        if any(not item.strip() for item in getattr(data, name)):
            yield Conflict(name=name, message="has an empty value")
    if not settings.output.output_dir.strip():
        yield Conflict(name="output_dir", message="is empty; name a folder")
    tuning = settings.tuning
    if tuning.sft_type == "lora" and not tuning.lora_target_modules:
        yield Conflict(name="lora_target_modules", message="is empty; write ALL, DEFAULT or names of layers")


def _check_amounts(settings: Settings) -> Iterator[Conflict]:
    data = settings.data
    if data.train_dataset_sample == 0:
        yield Conflict(name="train_dataset_sample", message="0 takes no row; write -1 for all, or a number")
    if data.max_length == 0:
        yield Conflict(name="max_length", message="0 leaves no row; write -1 for no limit, or a number of tokens")
    if settings.training.max_steps == 0:
        yield Conflict(name="max_steps", message="0 trains nothing; write -1 to go by epochs, or use dry_run")
    if data.train_dataset_mix_ratio > 0 and not data.train_dataset_mix_ds:
        message = f"is empty, but train_dataset_mix_ratio is {data.train_dataset_mix_ratio:g}"
        yield Conflict(name="train_dataset_mix_ds", message=message, others=("train_dataset_mix_ratio",))
    if data.validation_ratio == 1:
        yield Conflict(name="validation_ratio", message="1 holds every row back and leaves none to train on")


def _check_render(settings: Settings) -> Iterator[Conflict]:
    try:
        read_weights(settings.render.loss_weights)
    except ConfigError as error:
        yield Conflict(name="loss_weights", message=error.message.removeprefix("--loss_weights").lstrip(" :"))


def _check_identity(settings: Settings) -> Iterator[Conflict]:
    data = settings.data
    for name in ("model_name", "model_author"):
        values = getattr(data, name)
        if len(values) > 2:
            message = f"takes one value, or two (Chinese, English), not {len(values)}; quote names that contain spaces"
            yield Conflict(name=name, message=message)
        elif not values and data.self_cognition_sample > 0:
            message = f"not set, but self_cognition_sample is {data.self_cognition_sample}; identity rows teach it"
            yield Conflict(name=name, message=message, others=("self_cognition_sample",))


def _check_tuning(settings: Settings) -> Iterator[Conflict]:
    tuning = settings.tuning
    if tuning.quant_bits and tuning.sft_type == "full":
        message = "weights in 4 bits cannot be trained; use --sft_type lora, or leave quant_bits out"
        yield Conflict(name="quant_bits", message=message, others=("sft_type",))
    if tuning.trainable_tokens and tuning.sft_type == "lora" and "ALL+head" in tuning.lora_target_modules:
        message = "ALL+head puts an adapter on the head, of which trainable_tokens trains rows; use ALL"
        yield Conflict(name="lora_target_modules", message=message, others=("trainable_tokens",))


def _check_monitor(settings: Settings) -> Iterator[Conflict]:
    monitor = settings.monitor
    if settings.output.eval_steps == 0:
        for name in ("early_stopping_patience", "load_best_model_at_end"):
            if getattr(monitor, name):
                message = "needs evaluations, but eval_steps is 0"
                yield Conflict(name=name, message=message, others=("eval_steps",))
    for tracker in monitor.report_to:
        if tracker not in (*TRACKERS, "none"):
            message = f"knows no {tracker!r}; there are: {', '.join(TRACKERS)}, none"
            yield Conflict(name="report_to", message=message)
    if not monitor.track_project.strip():
        yield Conflict(name="track_project", message="is empty; write a name")
    if not monitor.metric_for_best_model.strip():
        yield Conflict(name="metric_for_best_model", message="is empty; write loss or the name of another value")


def _check_output(settings: Settings) -> Iterator[Conflict]:
    output = settings.output
    if output.resume is not None and not output.resume.strip():
        yield Conflict(name="resume", message="is empty; write auto or a checkpoint folder")
    if output.resume is not None and output.overwrite:
        message = "cannot be used together with resume: it would remove the run that resume reads"
        yield Conflict(name="overwrite", message=message, others=("resume",))
    for gpu in output.plan_gpu:
        try:
            parse_gpu(gpu)
        except ConfigError as error:
            yield Conflict(name="plan_gpu", message=f"{error.message}; {error.fix}")

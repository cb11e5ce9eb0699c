"""Every setting of a run: name, unit, default, reason.

Leaf names are unique over the whole tree, and each is also the flag of `actune sft` (`--learning_rate 5e-5`). Names are
those of the reference recipe where it has one. A recipe file nests them by group (`training: {learning_rate: 5e-5}`).
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from actune.core.losses import LOSSES
from actune.core.parts import ASSISTANT, PARTS

# Trackers that a run can report to.
TRACKERS = ("tensorboard", "wandb", "trackio", "swanlab", "mlflow")

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
# Several NAME=VALUE; in a recipe also a mapping.
Pairs = Annotated[tuple[str, ...], "pairs"]


def _write_switch(value: object) -> object:
    """Return True and False as the words, so that `gradient_checkpointing=True` works from Python."""
    return str(value).lower() if isinstance(value, bool) else value


def _write_number(value: object) -> object:
    """Return 4 as "4", so that `quant_bits=4` works from Python."""
    return str(value) if isinstance(value, int) else value


class Group(BaseModel):
    """A group of settings: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ModelSettings(Group):
    """Which model, and how its weights and tokenizer are loaded."""

    model_id_or_path: str = Field(
        default="", description="Folder of a model, or hub id: owner/name, hf:owner/name, ms:owner/name."
    )
    model_revision: str | None = Field(
        default=None, description="Branch, tag or commit on the hub. Default: the hub's own."
    )
    dtype: Literal["AUTO", "bf16", "fp16", "fp32"] = Field(
        default="AUTO",
        description="Number format of frozen weights and of matrix products. AUTO: bf16 where the accelerator has it, else fp32. Trained weights are kept in fp32.",
    )
    chat_template: str | None = Field(
        default=None,
        description="Jinja file that replaces the tokenizer's chat template. A model without one gets ChatML, with a notice.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with the model. Off: such a model is refused."
    )


class DataSettings(Group):
    """Which rows, in which proportion."""

    dataset: tuple[str, ...] = Field(
        default=(),
        description="Agent rows: files, folders, patterns (data/*.jsonl), registry names (ms-agent), hub ids (hf:owner/name, ms:owner/name); NAME#N samples N rows, and repeats them where there are fewer.",
    )
    format: str | None = Field(default=None, description="Format of the rows. Default: detected per file.")
    train_dataset_sample: Annotated[int, Field(ge=-1)] = Field(
        default=-1, description="-1: all agent rows. N: N rows in total after mixing, split 1 : ratio."
    )
    train_dataset_mix_ratio: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="General rows per agent row. The reference uses 2.0 so that general knowledge is kept."
    )
    train_dataset_mix_ds: tuple[str, ...] = Field(
        default=("ms-bench",), description="Where general rows come from; as for dataset."
    )
    train_dataset_mix_by: Literal["rows", "tokens", "supervised_tokens"] = Field(
        default="rows",
        description="What train_dataset_mix_ratio counts: rows, or the tokens or trained tokens of general rows per one of agent rows.",
    )
    dataset_weights: tuple[str, ...] = Field(
        default=(),
        description="How often rows of a source are used, as NAME=WEIGHT: 2 twice each, 0.5 every other one; among general sources their shares. NAME as in dataset or train_dataset_mix_ds, without #N.",
    )
    validation_ratio: Share = Field(
        default=0.01,
        description="Share of the agent rows held back for the evaluation loss, taken before anything else. At least one row unless 0.",
    )
    self_cognition_sample: Count = Field(
        default=0, description="Identity rows, drawn with repetition. The reference uses 3000."
    )
    self_cognition_file: str | None = Field(
        default=None,
        description="Identity rows of your own (jsonl: query, response with {{NAME}} and {{AUTHOR}}, lang, split) instead of the package's.",
    )
    model_name: tuple[str, ...] = Field(
        default=(), description="Name taught by identity rows; two values: Chinese, English."
    )
    model_author: tuple[str, ...] = Field(
        default=(), description="Author taught by identity rows; two values: Chinese, English."
    )
    check_dataset_strategy: Literal["none", "discard", "error", "warning"] = Field(
        default="warning",
        description="Rows with findings. warning: errors go to quarantine, warnings are kept and reported, and what the template would lose of a row stops the run; discard: all of these rows go to quarantine; error: the first one stops the run; none: only rows that cannot be rendered are left out.",
    )
    max_length: Annotated[int, Field(ge=-1)] = Field(default=2048, description="Tokens a row may have. -1: no limit.")
    truncation_strategy: Literal["delete", "turns", "windows", "error"] = Field(
        default="delete",
        description="Over-long rows: delete: left out and counted; turns: oldest whole turns are dropped; windows: split at turns, each answer trained once; error: stop.",
    )
    overlap_strategy: Literal["none", "warning", "discard", "error"] = Field(
        default="warning",
        description="Validation rows whose prompt stands in a training row, whole or in most of its n-grams. warning: counted and said; discard: left out of validation and listed; error: stop; none: not looked for.",
    )
    dataset_num_proc: Positive | None = Field(
        default=None, description="Processes that read and encode rows. Default: one a core. No number changes a row."
    )
    cache: bool = Field(
        default=True,
        description="Keep read and encoded rows for later runs; they are found again by file, tokenizer, template and settings.",
    )
    cache_dir: str | None = Field(
        default=None,
        description="Folder of these rows. Default: $ACTUNE_CACHE, else actune in the user's cache folder.",
    )
    cache_limit: Annotated[float, Field(gt=0)] = Field(
        default=20.0, description="GiB kept there; what was not used for longest goes first."
    )


class RenderSettings(Group):
    """How conversations become text and tokens."""

    dialect: Literal["auto", "react", "react_zh", "chat"] = Field(
        default="auto",
        description="auto: ReAct for rows whose source is ReAct text, the chat template's own tool calls for others.",
    )
    history_reasoning: Literal["as-data", "drop"] = Field(
        default="as-data",
        description="Reasoning of earlier turns in prompts: as in the row, or dropped before the template sees it.",
    )
    allow_loss: tuple[str, ...] = Field(
        default=(),
        description=f"Losses that do not stop a row: {', '.join(LOSSES)}. They are counted as warnings.",
    )
    template_variables: Pairs = Field(
        default=(),
        description="Variables for the chat template as NAME=VALUE (enable_thinking=false), in training and inference alike.",
    )
    loss_weights: Pairs = Field(
        default=(),
        description=f"Loss weights of parts of an answer as NAME=VALUE (thought=0.5 action=2), 0 or more: {', '.join(PARTS)}; {ASSISTANT} scales all. They multiply a message's own weight. What is not named has 1: the plain likelihood.",
    )
    now: datetime.date | None = Field(
        default=None, description="Date that templates see (YYYY-MM-DD). Default: today, frozen in run.json."
    )
    raw_control_tokens: bool = Field(
        default=False,
        description="Encode control tokens inside user and tool text as control tokens. Off: they are plain text.",
    )


class TuningSettings(Group):
    """Which weights are trained."""

    sft_type: Literal["lora", "full"] = Field(default="lora", description="Low-rank adapters, or all weights.")
    tuner_backend: Literal["peft", "swift"] = Field(
        default="peft", description="peft; swift is accepted and means peft."
    )
    lora_rank: Positive = Field(default=8, description="Rank of the adapters.")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(
        default=32.0, description="Adapter output is scaled by alpha / rank."
    )
    lora_dropout_p: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.05, description="Dropout on the adapter input."
    )
    use_rslora: bool = Field(
        default=False, description="Scale by alpha / sqrt(rank) instead (rsLoRA): larger ranks keep their effect."
    )
    use_dora: bool = Field(
        default=False,
        description="DoRA: train the length of each row of a weight besides its low-rank change. Slower; servers want it merged.",
    )
    lora_target_modules: tuple[str, ...] = Field(
        default=("ALL",),
        description="ALL: every linear layer of the blocks and the input embedding; ALL+head: the LM head too; DEFAULT: query, key and value; or names.",
    )
    trainable_tokens: tuple[str, ...] = Field(
        default=(),
        description="LoRA: tokens of the vocabulary, by their text, whose rows of embedding and head are trained whole; other rows then carry no adapter. Markers that the base has never seen need it. Slower.",
    )
    freeze_parameters: tuple[str, ...] = Field(
        default=(),
        description="Full fine-tuning: weights that stay as they are, by name, first parts of a name (model.embed_tokens) or glob (model.layers.*.mlp).",
    )
    trainable_parameters: tuple[str, ...] = Field(
        default=(),
        description="Full fine-tuning: the only weights that are trained; with freeze_parameters, exceptions from it. Written alike.",
    )
    train_routers: bool = Field(
        default=False,
        description="Full fine-tuning of mixtures of experts: train the routers too. Off: pre-training balanced them, and few rows upset that.",
    )
    quant_method: Literal["bnb"] = Field(
        default="bnb", description="What quantises the frozen base where quant_bits is set: bitsandbytes (extra qlora)."
    )
    quant_bits: Annotated[Literal["4"] | None, BeforeValidator(_write_number)] = Field(
        default=None,
        description="4: QLoRA, the linear layers of the frozen base in 4 bits (NF4): a quarter of the memory of bf16 weights, and slower. Default: as they are.",
    )
    bnb_4bit_use_double_quant: bool = Field(
        default=True, description="Quantise the scales of the 4-bit blocks too: 0.4 bits a weight less."
    )


class TrainingSettings(Group):
    """The optimisation."""

    row_order: Literal["shuffled", "interleaved"] = Field(
        default="shuffled",
        description="Order of the rows of an epoch, seeded: shuffled over all of them, or interleaved, so that any run of steps holds each source in its share.",
    )

    num_train_epochs: Annotated[float, Field(gt=0)] = Field(default=2.0, description="Passes over the rows.")
    max_steps: Annotated[int, Field(ge=-1)] = Field(
        default=-1, description="Stop after so many optimiser steps; -1: by epochs."
    )
    batch_size: Positive = Field(default=2, description="Conversations per process and accumulation step.")
    eval_batch_size: Positive | None = Field(
        default=None, description="Conversations per evaluation forward. Default: as many as training packs."
    )
    gradient_accumulation_steps: Positive = Field(
        default=16, description="A step consumes batch_size x this x processes conversations."
    )
    micro_batch_tokens: Count = Field(
        default=0,
        description="Tokens packed into one forward pass at most; a longer row has one of its own. 0: what fits the device by its size (on the CPU: 1 GiB of activations, 4096 to 16384 tokens).",
    )
    packing: Annotated[Literal["true", "false", "global"], BeforeValidator(_write_switch)] = Field(
        default="true",
        description="Lay several rows out in one forward pass without padding: those of one step; off, with a notice, for models that leak between rows. global: rows are put into packs of max_length tokens once for the whole run, and batch_size counts packs.",
    )
    share_prefixes: bool = Field(
        default=True,
        description="Rows of one forward pass that begin with the same tokens (system text, tools) have these computed once: the same losses and gradients in less time. With lora_dropout_p they share its mask there.",
    )
    fused: bool = Field(
        default=True,
        description="Compute Llama-like models with LoRA by actune's own forward and backward pass, after a trial against the model's; others, and off: by the model's own.",
    )
    fsdp: Annotated[Literal["true", "false", "auto"], BeforeValidator(_write_switch)] = Field(
        default="auto",
        description="Full fine-tuning by several processes: spread weights, gradients and optimiser state over them (FSDP2). auto: where they would fill one device.",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=5e-5, description="Peak learning rate.")
    warmup_ratio: Share = Field(
        default=0.03, description="Share of the steps with rising learning rate; then it falls linearly to 0."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.01, description="AdamW's decoupled decay; not on biases and norms."
    )
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="AdamW, first moment.")
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.999, description="AdamW, second moment.")
    adam_epsilon: Annotated[float, Field(gt=0)] = Field(default=1e-8, description="AdamW, added to the denominator.")
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(
        default=0.5, description="Gradient norm is clipped to this; 0: not clipped."
    )
    gradient_checkpointing: Annotated[Literal["true", "false", "auto"], BeforeValidator(_write_switch)] = Field(
        default="auto",
        description="Recompute activations in the backward pass: less memory, about a third more time. auto: only where a step would not fit the device.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=42, description="Order of rows, mixing, initialisation, dropout."
    )


class MonitorSettings(Group):
    """What is watched while training, and who is told."""

    eval_rows: Count = Field(
        default=64,
        description="Rows of the general sources, and identity questions, that training does not use, evaluated beside the validation rows (loss/SOURCE): so many of either at most; 0: none.",
    )
    metric_for_best_model: str = Field(
        default="loss",
        description="Value of the evaluations that the best checkpoint and early stopping go by: loss, loss/SOURCE or probe/METRIC. Losses are better when lower, probes when higher.",
    )
    early_stopping_patience: Count = Field(
        default=0,
        description="Stop after so many evaluations in a row without improvement; 0: never. Off, since the schedule of the learning rate is made for the whole run.",
    )
    early_stopping_threshold: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="What an evaluation has to gain on the best one to be an improvement."
    )
    load_best_model_at_end: bool = Field(
        default=False,
        description="Write the best checkpoint as the result, not the last weights; each evaluation that improves is then saved. Off, as the reference's result is the last.",
    )
    device_peak_tflops: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Peak of one device in TFLOP/s that MFU is the share of; 0: no MFU. Default: that of the data sheet, else (CPU, fp32) measured at the start in a tenth of a second.",
    )
    probe_items: Count = Field(
        default=0,
        description="Held-out agent rows whose first call is generated and scored at each evaluation (probe/METRIC); 0: none. Off, since 16 of them cost up to two or three steps, and the comparison after training measures more rows.",
    )
    probe_tokens: Positive = Field(default=256, description="Tokens of one output of a probe.")
    report_to: tuple[str, ...] = Field(
        default=("none",),
        description=f"Trackers that are handed what goes into metrics.jsonl: {', '.join(TRACKERS)}; none: none. Each is an extra of the same name.",
    )
    run_name: str | None = Field(default=None, description="Name of the run in trackers. Default: that of output_dir.")
    track_project: str = Field(default="actune", description="Project (experiment) of the run in trackers.")


class OutputSettings(Group):
    """Where results go and how often."""

    output_dir: str = Field(
        default="output", description="Folder of the run; must be empty or absent unless resume or overwrite."
    )
    resume: str | None = Field(
        default=None, description="auto: the newest checkpoint of output_dir; or a checkpoint folder."
    )
    overwrite: bool = Field(default=False, description="Remove an earlier run in output_dir first.")
    dry_run: bool = Field(
        default=False, description="Read, render and count everything, print the plan, train nothing."
    )
    plan_gpu: tuple[str, ...] = Field(
        default=(),
        description="Devices that a dry run estimates memory and time for: names (H100, A100-80G, RTX4090 ...) or NAME=80GiB,312TFLOPS,2000GB/s. Default: the accelerator of this machine, else its CPU.",
    )
    plan_processes: Positive | None = Field(
        default=None,
        description="Devices that a dry run plans for, one process each. Default: those it was started with.",
    )
    plan_file: str | None = Field(
        default=None, description="A dry run also writes its plan to this file, as JSON. Default: it writes nothing."
    )
    eval_steps: Count = Field(default=100, description="Evaluation every so many steps and at the end; 0: never.")
    save_steps: Count = Field(
        default=100, description="Checkpoint every so many steps and at the end; 0: only at the end."
    )
    save_total_limit: Positive = Field(
        default=2, description="Checkpoints kept, newest first; the best one is kept besides."
    )
    logging_steps: Positive = Field(default=10, description="A line in metrics.jsonl every so many steps.")
    compare: bool = Field(
        default=True,
        description="Compare the model before and after training on held-out rows, and write OUT/report/.",
    )
    compare_tasks: tuple[str, ...] = Field(
        default=(),
        description="Task files (.yaml) or built-in tasks that the comparison measures. Default: held-out rows, and identity questions where a name is taught.",
    )
    compare_items: Positive = Field(
        default=200, description="Held-out rows measured at most, for agent, general and over-trigger each."
    )
    compare_tokens: Positive = Field(default=512, description="Tokens of one output in the comparison.")
    compare_margin: Annotated[float, Field(gt=0)] = Field(
        default=0.02,
        description="What may be lost and still count as kept: a share of items, or nats a token for likelihoods.",
    )


class Settings(Group):
    """A whole run."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    render: RenderSettings = RenderSettings()
    tuning: TuningSettings = TuningSettings()
    training: TrainingSettings = TrainingSettings()
    monitor: MonitorSettings = MonitorSettings()
    output: OutputSettings = OutputSettings()

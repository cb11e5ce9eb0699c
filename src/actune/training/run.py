"""From settings and rows to trained weights: device, model, adapters, packing test, loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from actune.config.settings import Settings
from actune.core.errors import ConfigError, ModelError, TrainingError
from actune.modeling.adapters import Variant, attach_adapter, unwrap
from actune.modeling.freezing import freeze
from actune.modeling.fused.decoder import Decoder
from actune.modeling.fused.trial import prepare_decoder
from actune.modeling.isolation import prepare_packing
from actune.modeling.load import load_model, pick_dtype
from actune.modeling.quantize import Quantization, count_weights
from actune.modeling.targets import resolve_targets, summarise
from actune.render.named_tokens import find_tokens
from actune.render.tokenizer import TextTokenizer
from actune.render.tree import TokenTree
from actune.training.dealing import plan_run
from actune.training.job import Job, TrainResult
from actune.training.loop import train
from actune.training.memory import MemoryPlan, StepMemory, enable_checkpointing, plan_memory
from actune.training.probing import Probe
from actune.training.ranks import Ranks
from actune.training.shards import may_shard, shard, wants_shards


def run_training(  # noqa: PLR0913 - one call that holds a whole run
    *,
    settings: Settings,
    model_dir: Path,
    train_rows: Sequence[TokenTree] | None,
    validation_rows: Sequence[TokenTree] | None,
    run_dir: Path,
    ranks: Ranks,
    resume_from: Path | None,
    fingerprint: str,
    save_extra: Callable[[Path], None],
    say: Callable[[str], None],
    held_out_rows: Sequence[TokenTree] | None = None,
    probe: Probe | None = None,
) -> TrainResult:
    """Train on rows that the leading process holds (the others' arguments are not looked at).

    `model_dir` is a local folder. `held_out_rows` are evaluated beside the validation rows, and `probe` measures the
    model then. `save_extra` copies tokenizer files into a folder of weights; `say` prints a line of the plan or a notice,
    and is called in the leading process only.

    Raises:
        ModelError, TrainingError, CheckpointError, ConfigError: see the functions called.
    """
    say = say if ranks.leads else (lambda _text: None)
    rows = ranks.broadcast_trees(train_rows)
    fingerprint = ranks.broadcast_text(fingerprint)
    checkpoint = ranks.broadcast_text(str(resume_from) if resume_from is not None else "")
    held_back = ranks.broadcast_trees(validation_rows)
    held_out = ranks.broadcast_trees(held_out_rows)
    if not rows:
        raise TrainingError("there is no row to train on", fix="check --dataset and the quarantine file")
    full = settings.tuning.sft_type == "full"
    compute = pick_dtype(settings.model.dtype, ranks.device)
    with ranks.together("loading the model"):
        model = load_model(
            model_dir,
            dtype=torch.float32 if full else compute,
            # A model that one device does not hold is spread from here.
            device=torch.device("cpu") if may_shard(settings, ranks) else ranks.device,
            trust_remote_code=settings.model.trust_remote_code,
            quantization=Quantization.of(settings.tuning, compute),
        )
        _check_vocabulary(model, [*rows, *held_back, *held_out])
    if full:
        _freeze(model, settings, say)
        _place(model, settings, ranks, compute=compute, say=say)
    attention = str(model.config._attn_implementation)
    packed = _decide_packing(model, settings, say)
    trained = model if full else _adapt(model, settings, model_dir, say)
    _announce(trained, settings, rows=rows, ranks=ranks, compute=compute, say=say)
    decoder = _decide_decoder(trained, settings, packed=packed, say=say)
    memory = _plan_memory(trained, decoder, settings, rows, compute=compute, say=say)
    job = Job(
        settings=settings,
        train=rows,
        validation=held_back,
        held_out=held_out,
        probe=probe,
        attention=attention,
        run_dir=run_dir,
        fingerprint=fingerprint,
        packed=packed,
        memory=memory,
        decoder=decoder,
        resume_from=Path(checkpoint) if checkpoint else None,
        autocast=compute if full and compute != torch.float32 else None,
        save_extra=save_extra,
        say=say,
    )
    return train(trained, job, ranks)


def _check_vocabulary(model: PreTrainedModel, rows: Sequence[TokenTree]) -> None:
    size = int(model.config.get_text_config().vocab_size)
    for tree in rows:
        top = max(int(ids.max(initial=0)) for ids in (tree.input_ids, tree.target_ids))
        if top >= size:
            raise ModelError(
                f"{tree.source} holds token {top}; the model knows {size} tokens: the tokenizer is not the model's",
                fix="use the tokenizer that comes with the model",
            )


def _decide_packing(model: PreTrainedModel, settings: Settings, say: Callable[[str], None]) -> bool:
    if settings.training.packing == "false":
        say("Packing is off: one plain sequence a forward pass.")
        return False
    reason = prepare_packing(model)
    if reason is not None:
        say(f"Rows are not packed: {reason}. One plain sequence a forward pass: the same losses, slower.")
    return reason is None


def _decide_decoder(
    model: nn.Module, settings: Settings, *, packed: bool, say: Callable[[str], None]
) -> Decoder | None:
    if not packed or not settings.training.fused or settings.tuning.sft_type == "full":
        return None
    found = prepare_decoder(model)
    if isinstance(found, str):
        say(f"The model's own forward pass is used: {found}. The same losses, slower.")
        return None
    return found


def _adapt(model: PreTrainedModel, settings: Settings, model_dir: Path, say: Callable[[str], None]) -> nn.Module:
    tuning = settings.tuning
    tokens = (
        find_tokens(TextTokenizer.from_folder(model_dir), tuning.trainable_tokens, "trainable_tokens")
        if tuning.trainable_tokens
        else ()
    )
    targets = resolve_targets(model, tuning.lora_target_modules, ends=not tokens)
    say(f"LoRA on {len(targets.modules)} modules: {summarise(targets.modules)}")
    if tokens:
        say(f"Rows of {len(tokens)} tokens are trained in embedding and head, which carry no adapter.")
    for notice in targets.notices:
        say(f"Note: {notice}.")
    # What peft, vLLM and others load the base from: the hub id where one was given, else the folder.
    given = settings.model.model_id_or_path
    is_hub_id = bool(given) and not given.startswith("ms:") and not Path(given).exists()
    model.name_or_path = given.removeprefix("hf:") if is_hub_id else str(model_dir)
    return attach_adapter(
        model,
        modules=targets.names,
        rank=tuning.lora_rank,
        alpha=tuning.lora_alpha,
        dropout=tuning.lora_dropout_p,
        seed=settings.training.seed,
        variant=Variant(use_rslora=tuning.use_rslora, use_dora=tuning.use_dora, tokens=tokens),
    )


def _freeze(model: PreTrainedModel, settings: Settings, say: Callable[[str], None]) -> None:
    """Set which weights full fine-tuning trains, and say which it does not."""
    frozen = freeze(model, settings.tuning)
    if frozen.names:
        say(f"Frozen weights: {summarise(frozen.names)}")
    if frozen.routers:
        say("Routers of experts are not trained; --train_routers true trains them too.")


def _place(
    model: PreTrainedModel, settings: Settings, ranks: Ranks, *, compute: torch.dtype, say: Callable[[str], None]
) -> None:
    """Spread the weights over the processes where that is wanted, else put them all on the device of each."""
    if settings.training.fsdp == "true" and ranks.size == 1:
        say("fsdp has no effect: there is one process.")
    if not wants_shards(settings, model, ranks):
        module: nn.Module = model
        module.to(ranks.device)
        return
    if compute == torch.float16:
        raise ConfigError(
            "fp16 needs its losses scaled by all processes alike, which weights spread over them do not allow",
            fix="use --dtype bf16 or fp32, or --fsdp false",
        )
    if settings.monitor.probe_items:
        raise ConfigError(
            "a probe is generated by one process, and weights spread over them need all at once",
            fix="use --probe_items 0, or --fsdp false",
        )
    shard(model, ranks)
    say(f"Weights, gradients and optimiser state are spread over {ranks.size} processes.")


def _announce(
    model: nn.Module,
    settings: Settings,
    *,
    rows: Sequence[TokenTree],
    ranks: Ranks,
    compute: torch.dtype,
    say: Callable[[str], None],
) -> None:
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    count = count_weights(model)
    name = str(compute).removeprefix("torch.")
    say(f"Trained weights: {trained:,} of {count:,} ({trained / count:.2%}), {name} on {ranks.device.type}.")
    plan = plan_run(settings, rows=len(rows), ranks=ranks.size, trees=rows)
    training = settings.training
    say(
        f"{plan.steps} steps of {plan.size} {plan.unit} ({training.batch_size} x {training.gradient_accumulation_steps} x "
        f"{ranks.size} processes), {plan.total} {plan.unit} in all, {plan.total / plan.rows:.2f} epochs of {plan.rows}."
    )


def _plan_memory(
    model: nn.Module,
    decoder: Decoder | None,
    settings: Settings,
    rows: Sequence[TokenTree],
    *,
    compute: torch.dtype,
    say: Callable[[str], None],
) -> MemoryPlan:
    """Choose the tokens of a forward pass, and switch recomputation on where it is wanted."""
    dropout = settings.tuning.sft_type == "lora" and settings.tuning.lora_dropout_p > 0
    memory = StepMemory.of(model, compute=compute, fused=decoder is not None, dropout=dropout)
    plan = plan_memory(
        settings,
        memory,
        device=next(model.parameters()).device,
        longest=max(len(tree) for tree in rows),
        supervised=sum(len(tree.target_ids) for tree in rows) / max(1, sum(len(tree) for tree in rows)),
    )
    text = f"A forward pass takes at most {plan.tokens:,} tokens, a step about {plan.needed / 2**30:.1f} GiB"
    say(text + (f" of {plan.room / 2**30:.1f} GiB." if plan.room is not None else "."))
    if not plan.recompute:
        return plan
    inner = unwrap(model)
    if decoder is not None:
        decoder.recompute = True
    elif inner.supports_gradient_checkpointing:
        enable_checkpointing(inner)
    else:
        say(f"{type(inner).__name__} has no gradient checkpointing; it is trained without.")
        return plan
    say("Gradient checkpointing is on: activations are recomputed in the backward pass.")
    return plan

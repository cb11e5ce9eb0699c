"""The training loop: plan the step, run its micro-batches, update, log, evaluate, save."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from actune.core.errors import CheckpointError, TrainingError
from actune.core.files import atomic_folder, remove_partials
from actune.data.pack import Batch, trim
from actune.modeling.load import release_memory
from actune.modeling.products import fast_products
from actune.render.tree import TokenTree
from actune.training.broken import (
    BrokenStep,
    explain_odd_step,
    find_odd_gradients,
    judge_row,
    refuse_odd_weights,
    report_broken,
)
from actune.training.checkpoint import (
    State,
    go_on_after,
    list_differences,
    load_checkpoint,
    load_weights,
    require_sound,
    save_checkpoint,
    write_weights,
)
from actune.training.dealing import Dealer, derive_seed, plan_run
from actune.training.evaluation import Evaluator, group_rows
from actune.training.flops import Flops, StepCounts
from actune.training.interrupts import Interrupts
from actune.training.job import Job, TrainResult
from actune.training.metrics import StepMetrics, read_peak_memory
from actune.training.optimizer import (
    clip_gradients,
    drop_gradients,
    learning_rate,
    list_stepped,
    make_optimizer,
)
from actune.training.probing import Prober
from actune.training.ranks import Ranks
from actune.training.recovery import Budgets, Kind, Shortage, explain_sharded, explain_shortage, explain_update
from actune.training.reports import Reports
from actune.training.shards import gather_whole, is_sharded
from actune.training.step import StepInput, TrainStep
from actune.training.stopping import Judge


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Sums of one step over all processes."""

    loss: float | None
    grad_norm: float | None
    counts: StepCounts
    stop: bool


class _StopNow(Exception):
    pass


def train(model: nn.Module, job: Job, ranks: Ranks) -> TrainResult:
    """Train a model on its device, to the end or to Ctrl-C.

    Raises:
        TrainingError: no row has anything to learn from, or a loss is no finite number.
        CheckpointError: the checkpoint to resume from does not fit, or one cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint of the last complete step was saved.
    """
    with fast_products(ranks.device):
        return _Loop(model, job, ranks).run()


class _Loop:
    """State of one run; each method is one phase of a step."""

    def __init__(self, model: nn.Module, job: Job, ranks: Ranks) -> None:
        self.model, self.job, self.ranks, self.settings = model, job, ranks, job.settings
        self.sharded = is_sharded(model)
        share = job.settings.training.share_prefixes
        self.dealer = Dealer(ranks=ranks.size, packed=job.packed, share=share, even=self.sharded)
        # Trimmed tokens of each row, however many of them a micro-batch shares: what a user's data has.
        self.tokens = [len(trim(tree)) for tree in job.train]
        self.weights = [float(np.sum(tree.target_weights, dtype=np.float64)) for tree in job.train]
        if not any(self.weights):
            raise TrainingError(
                f"none of the {len(job.train)} rows has a token with loss weight: there is nothing to learn from",
                fix="check that the rows have assistant messages that are trained (actune inspect shows them)",
            )
        self.device = next(model.parameters()).device
        self.parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        ranks.share_parameters(self.parameters.values())
        self.step_module = TrainStep(model, autocast=job.autocast, decoder=job.decoder)
        self.evaluator = Evaluator(
            step_module=self.step_module,
            dealer=self.dealer,
            ranks=ranks,
            packed=job.packed,
            groups=group_rows(job.validation, job.held_out),
        )
        self.flops = Flops.of(model, fused=job.decoder is not None)
        self.prober = Prober.of(model, job.probe, attention=job.attention, autocast=job.autocast, ranks=ranks)
        self.optimizer = make_optimizer(self.parameters, self.settings.training, flat=isinstance(model, PeftModel))
        halves = (job.autocast or next(model.parameters()).dtype) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=halves)
        self.plan = plan_run(self.settings, rows=len(job.train), ranks=ranks.size, trees=job.train)
        self.interrupts = Interrupts()
        self.budgets = Budgets(job.run_dir, writes=ranks.leads)
        self.done = 0
        self.saved = -1
        self.judge = Judge(self.settings.monitor)
        self.eval_loss: float | None = None
        self.losses: list[float] = []

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        began = time.monotonic()
        self._prepare()
        job, output = self.job, self.settings.output
        self.reports = Reports(
            self.settings,
            job.run_dir,
            steps=self.plan.steps,
            done=self.done,
            ranks=self.ranks,
            compute=job.autocast or next(self.model.parameters()).dtype,
            say=job.say,
        )
        watched = self.evaluator.groups or self.prober.active
        with self.interrupts, self.reports:
            while self.done < self.plan.steps and not self.judge.stops:
                stop = self._advance()
                last = self.done == self.plan.steps
                better = False
                if watched and output.eval_steps and (last or self.done % output.eval_steps == 0):
                    better = self._evaluate() and self.settings.monitor.load_best_model_at_end
                last = last or self.judge.stops
                if last or stop or better or (output.save_steps and self.done % output.save_steps == 0):
                    self._save()
                if stop and not last:
                    raise KeyboardInterrupt
            folder = self._finish()
        return TrainResult(
            steps=self.done,
            first_loss=self.losses[0] if self.losses else None,
            last_loss=self.losses[-1] if self.losses else None,
            eval_loss=self.eval_loss,
            seconds=time.monotonic() - began,
            folder=folder,
        )

    def _prepare(self) -> None:
        with self.ranks.together("preparing the output folder"):
            if self.ranks.leads:
                self.job.run_dir.mkdir(parents=True, exist_ok=True)
                remove_partials(self.job.run_dir)
        state = None
        if self.job.resume_from is not None:
            with self.ranks.together("reading the checkpoint"):
                state = self._resume(self.job.resume_from)
        self.budgets.restore(state, self.settings, ranks=self.ranks)
        if self.plan.last_size < self.plan.size:
            self.job.say(
                f"The last step takes the {self.plan.last_size} {self.plan.unit} that are left, not {self.plan.size}."
            )
        self.model.train()

    def _resume(self, folder: Path) -> State:
        for notice in require_sound(folder) if self.ranks.leads else ():
            self.job.say(f"Note: {notice}")
        state = load_checkpoint(folder, model=self.model, optimizer=self.optimizer, parameters=self.parameters)
        differing = list_differences(state, self._state(step=state.step))
        if differing:
            raise CheckpointError(
                f"{folder} belongs to a run with other settings: {'; '.join(differing)}",
                fix="resume with the settings of that run, or start a new run in another folder",
            )
        self.done = self.saved = state.step
        if (notice := self.judge.restore(state)) is not None:
            self.job.say(f"Note: {notice}.")
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(state.scaler))
        limit = self.settings.output.save_total_limit
        for notice in go_on_after(self.job.run_dir, folder, state, limit=limit) if self.ranks.leads else ():
            self.job.say(f"Note: {notice}")
        self.job.say(f"Resuming after step {state.step} of {self.plan.steps} from {folder}.")
        return state

    def _advance(self) -> bool:
        """Do one step and log it; return whether to stop after it."""
        step, training = self.done, self.settings.training
        began = time.monotonic()
        rate = learning_rate(
            step, steps=self.plan.steps, peak=training.learning_rate, warmup_ratio=training.warmup_ratio
        )
        try:
            outcome = self._step(step, rate)
        except _StopNow:
            drop_gradients(self.optimizer)
            if self.done > max(self.saved, 0):
                self._save()
            raise KeyboardInterrupt from None
        seconds = time.monotonic() - began
        self.done = step + 1
        if outcome.loss is None:
            self.reports.say(f"Step {self.done}: its rows have no loss weight; skipped.")
        else:
            self.losses.append(outcome.loss)
        metrics = StepMetrics(
            step=self.done,
            epoch=round(self.plan.consumed(self.done) / self.plan.rows, 6),
            loss=outcome.loss,
            learning_rate=rate,
            grad_norm=outcome.grad_norm,
            tokens=outcome.counts.tokens,
            supervised_tokens=outcome.counts.supervised,
            tokens_per_second=round(outcome.counts.tokens / max(seconds, 1e-9), 2),
            peak_memory_bytes=read_peak_memory(self.device),
            seconds=round(seconds, 4),
        )
        self.reports.add_step(metrics, flops=outcome.counts.flops)
        return outcome.stop

    # --- one step ---------------------------------------------------------------------------------------------------

    def _step(self, step: int, rate: float) -> _Outcome:
        rows = self.plan.step(step)
        # All processes hold all rows and the same plan: each knows the sum of weights over all of them beforehand.
        denominator = math.fsum(self.weights[row] for row in rows)
        while True:
            own, counts, shortage = self._run_micro_batches(step, rows, denominator)
            short, stop = float(shortage is not None), float(self.interrupts.wanted)
            loss, stop, short, *counts = self.ranks.sum([math.fsum(own), stop, short, *counts])
            if not short:
                break
            self._cut_budget(shortage, kind="train", step=step + 1, budget=self._budget(step))
        if not math.isfinite(loss):
            raise self._explain_broken("loss", step, losses=own)
        norm = self._update(step, rate) if denominator > 0 else None
        return _Outcome(
            loss=loss / denominator if denominator > 0 else None,
            grad_norm=norm,
            counts=StepCounts(*map(int, counts)),
            stop=stop > 0,
        )

    def _run_micro_batches(
        self, step: int, rows: Sequence[int], denominator: float
    ) -> tuple[list[float], StepCounts, Shortage | None]:
        """Add up this process's gradients of a step; return losses by micro-batch, counts, what did not fit."""
        torch.manual_seed(derive_seed(self.settings.training.seed, step, self.ranks.rank))
        sums: list[Tensor] = []
        tokens = supervised = flops = 0
        for chosen, batch in self._deal(rows, self.job.train, self._budget(step)):
            if self.ranks.size == 1 and self.interrupts.wanted:
                raise _StopNow
            try:
                total, _ = self.step_module(StepInput.of(batch, self.device, packed=self.job.packed))
                self.scaler.scale(total / denominator).backward()
            except (RuntimeError, MemoryError) as error:
                if self.sharded:
                    raise explain_sharded(error, what=f"step {step + 1}") from error
                return [], StepCounts(0, 0, 0), Shortage.of(error, rows=len(chosen), batch=batch)
            sums.append(total.detach())
            if not chosen:
                continue
            tokens += sum(self.tokens[row] for row in chosen) if self.job.packed else len(batch)
            supervised += len(batch.target_ids)
            flops += self.flops.count(batch)
        losses = [float(value) for value in torch.stack(sums).cpu()] if sums else []
        return losses, StepCounts(tokens, supervised, flops), None

    def _cut_budget(self, shortage: Shortage | None, *, kind: Kind, step: int, budget: int) -> int:
        """Allow smaller micro-batches from a step (counted from 1) on, in all processes alike.

        Raises:
            TrainingError: one row by itself does not fit.
        """
        drop_gradients(self.optimizer)  # nothing of this try is kept
        release_memory()
        smaller = self.budgets.cut(shortage, wanted=budget, kind=kind, step=step, ranks=self.ranks)
        if smaller is None:
            raise explain_shortage(self.model, self.settings, shortage, step=step, fused=self.job.decoder is not None)
        what = "Step" if kind == "train" else "The evaluation after step"
        self.job.say(f"{what} {step} was out of memory: from here on a forward pass takes at most {smaller:,} tokens.")
        return smaller

    def _update(self, step: int, rate: float) -> float | None:
        """Sum and clip gradients, update weights; return the norm before clipping (None: an fp16 overflow)."""
        stepped = list_stepped(self.optimizer)
        self.ranks.reduce_gradients(stepped)
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(stepped, self.settings.training.max_grad_norm)
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise self._explain_broken("gradients", step, losses=())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        try:
            self.scaler.step(self.optimizer)
        except (RuntimeError, MemoryError) as error:
            raise explain_update(error, step=step + 1) from error
        self.scaler.update()
        drop_gradients(self.optimizer)
        return norm if math.isfinite(norm) else None

    def _explain_broken(
        self, reason: Literal["loss", "gradients"], step: int, *, losses: Sequence[float]
    ) -> TrainingError:
        """Write the batch of a step to look at; `losses` are those of this process's micro-batches."""
        rows, budget = self.plan.step(step), self._budget(step)
        if self.sharded:
            return explain_odd_step(reason, step=step + 1, sources=[str(self.job.train[row].source) for row in rows])
        parts = zip(losses, self._deal(rows, self.job.train, budget), strict=False)
        broken = BrokenStep(
            step=step + 1,
            reason=reason,
            rows=rows,
            plan=self.dealer.plan(rows, self.job.train, budget),
            suspects=frozenset(row for loss, (part, _) in parts if not math.isfinite(loss) for row in part),
            weights=find_odd_gradients(self.parameters),
        )
        drop_gradients(self.optimizer)
        return report_broken(broken, self.job.train, judge=self._judge, ranks=self.ranks, run_dir=self.job.run_dir)

    def _judge(self, row: int) -> tuple[float, bool]:
        batches = (batch for _, batch in self.dealer.lay_out([row], self.job.train))
        weight = self.weights[row]
        return judge_row(self.step_module, batches, self.parameters, packed=self.job.packed, weight=weight)

    def _budget(self, step: int) -> int:
        return self.budgets.limit(self.job.memory.tokens, kind="train", step=step + 1)

    def _deal(
        self, rows: Sequence[int], trees: Sequence[TokenTree], budget: int
    ) -> Iterator[tuple[Sequence[int], Batch]]:
        """Yield this process's micro-batches of some rows, each with the rows it holds."""
        return self.dealer.deal(rows, trees, rank=self.ranks.rank, budget=budget)

    # --- around the steps -------------------------------------------------------------------------------------------

    def _evaluate(self) -> bool:
        """Log what an evaluation finds; return whether the model is better than at any earlier one."""
        training = self.settings.training
        longest = self.evaluator.longest
        wanted = training.eval_batch_size * longest if training.eval_batch_size else self.job.memory.tokens
        found = self.evaluator.measure(
            budget=self.budgets.limit(wanted, kind="eval", step=self.done),
            cut=lambda shortage, budget: self._cut_budget(shortage, kind="eval", step=self.done, budget=budget),
        )
        probed = self.prober.measure()
        for notice in (*found.notices, *probed.notices):
            self.reports.say(f"After step {self.done}: {notice}.")
        values = {**found.values, **probed.values}
        self.reports.add_evaluation(self.done, values)
        self.eval_loss = values.get("loss", self.eval_loss)
        return self.judge.add(self.done, values)

    def _state(self, *, step: int) -> State:
        best = self.judge.best
        return State(
            step=step,
            rows=self.plan.consumed(step),
            step_size=self.plan.size,
            seed=self.settings.training.seed,
            fingerprint=self.job.fingerprint,
            settings=self.settings.model_dump(mode="json"),
            scaler=self.scaler.state_dict(),
            best_step=best.step if best is not None else None,
            best_value=best.value if best is not None else None,
            metric=self.judge.metric,
            top=self.judge.top,
            stale=self.judge.stale,
            cuts=self.budgets.dump(),
        )

    def _save(self) -> None:
        if self.done == self.saved:
            return
        self.judge.mark_saved(self.done)
        whole = gather_whole(self.model, self.optimizer, self.parameters, self.ranks)
        with self.ranks.together("saving the checkpoint"):
            if self.ranks.leads:
                self.reports.flush()
                refuse_odd_weights(
                    whole.weights if whole is not None else self.parameters, step=self.done, run_dir=self.job.run_dir
                )
                save_checkpoint(
                    self.job.run_dir,
                    model=self.model,
                    optimizer=self.optimizer,
                    parameters=self.parameters,
                    state=self._state(step=self.done),
                    limit=self.settings.output.save_total_limit,
                    save_extra=self.job.save_extra,
                    whole=whole,
                )
        self.saved = self.done

    def _finish(self) -> Path:
        self.model.eval()
        folder = self.job.run_dir / ("adapter" if isinstance(self.model, PeftModel) else "model")
        for text in self.judge.sum_up(self.done, self.plan.steps):
            self.job.say(text)
        best = self.judge.best
        with self.ranks.together("loading the best weights"):
            if self.settings.monitor.load_best_model_at_end and best is not None and best.step != self.done:
                load_weights(self.job.run_dir / f"checkpoint-{best.step}", self.model)
        whole = gather_whole(self.model, None, self.parameters, self.ranks)
        with self.ranks.together("saving the result"):
            if self.ranks.leads:
                with atomic_folder(folder) as partial:
                    write_weights(self.model, partial, self.job.save_extra, whole)
        return folder

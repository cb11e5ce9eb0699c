"""The one clock of `benchmarks/train.py`: notes each optimiser step of whatever trains in this process.

Put on PYTHONPATH, Python imports this file at start-up, before any entry point. With BENCH_EVENTS set it adds lines to
that file: `batch` (rows, tokens, places with padding, supervised tokens of one forward pass, and its share of the step's
loss, unrounded), `step` (an optimiser step is done) and `log` (the gradient norm that was reported). All peers train through `transformers.Trainer`, whose first callback
and `training_step` are wrapped; actune's metrics log is wrapped the same way, and its packing, which tells the rows of a step (`packed`). Nothing else is changed.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time

_EVENTS = os.environ.get("BENCH_EVENTS")


def _note(kind, **values):
    with open(_EVENTS, "a", encoding="utf-8") as file:  # noqa: PTH123 - every import costs start-up time here
        file.write(json.dumps({"event": kind, "time": time.time(), "cpu": time.process_time(), **values}) + "\n")


def _watch_callbacks(module):
    flow = module.DefaultFlowCallback  # in every Trainer, before any other callback
    step_end = flow.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        _note("step", step=state.global_step)
        return step_end(self, args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            _note("log", step=state.global_step, norm=float(logs.get("grad_norm", 0.0)))

    flow.on_step_end, flow.on_log = on_step_end, on_log


def _count(inputs):
    ids, mask, places = inputs["input_ids"], inputs.get("attention_mask"), inputs.get("position_ids")
    flat = len(ids) == 1 and places is not None and places.dim() == 2
    labels = inputs.get("labels")
    return {
        "rows": int((places == 0).sum()) if flat else len(ids),
        "tokens": int(mask.sum()) if mask is not None and mask.dim() == 2 else ids.numel(),
        "places": ids.numel(),
        "supervised": int((labels[..., 1:] != -100).sum()) if labels is not None else 0,
    }


def _watch_trainer(module):
    inner = module.Trainer.training_step

    def training_step(self, model, inputs, *args, **kwargs):
        counts = _count(inputs)  # before: some trainers take the inputs apart
        loss = inner(self, model, inputs, *args, **kwargs)
        _note("batch", **counts, loss=float(loss))
        return loss

    module.Trainer.training_step = training_step


def _watch_actune(module):
    inner = module.MetricsLog.add_step

    def add_step(self, metrics):
        tokens = metrics.tokens
        counts = {"rows": 0, "tokens": tokens, "places": tokens, "supervised": metrics.supervised_tokens}
        _note("batch", **counts, loss=metrics.loss)
        _note("step", step=metrics.step)
        _note("log", step=metrics.step, norm=metrics.grad_norm)
        return inner(self, metrics)

    module.MetricsLog.add_step = add_step


def _watch_packing(module):
    inner = module.pack

    def pack(trees, *args, **kwargs):
        # Self-tests pack rows of their own.
        _note("packed", lines=[tree.source.line for tree in trees if os.path.isfile(tree.source.file)])  # noqa: PTH113
        return inner(trees, *args, **kwargs)

    module.pack = pack


_WATCHED = {
    "actune.data.pack": _watch_packing,
    "transformers.trainer_callback": _watch_callbacks,
    "transformers.trainer": _watch_trainer,
    "actune.training.metrics": _watch_actune,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the watched modules where they are, and wraps what they define once they are loaded."""

    def find_spec(self, name, path=None, target=None):
        watch = _WATCHED.pop(name, None)
        spec = importlib.util.find_spec(name) if watch is not None else None
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            watch(module)

        spec.loader.exec_module = exec_module
        return spec


if _EVENTS:
    sys.meta_path.insert(0, _Finder())

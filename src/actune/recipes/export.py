"""`actune export`: a trained model in a form that others load."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from actune.config.extras import require_package
from actune.config.run_folder import RunInfo, read_run
from actune.core.errors import ConfigError
from actune.core.files import atomic_folder, atomic_text
from actune.core.types import Style
from actune.data.reading.hub import refuse_no_model, resolve_model
from actune.exporting.gguf import GgufType, Labels, Written
from actune.exporting.gguf_folder import plan_gguf, write_gguf_folder
from actune.exporting.ollama.modelfile import GoTemplate, build_template, write_modelfile
from actune.exporting.origin import Origin, find_origin, safe_name
from actune.recipes.writing import stderr
from actune.render.chat import ChatRenderer, load_renderer

if TYPE_CHECKING:
    from actune.modeling.merge import Reference
    from actune.modeling.tokenizer_files import TokenizerSaver

Form = Literal["merged", "gguf", "ollama"]
_LOSSLESS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked of `actune export`: its flags."""

    model: str
    adapter: str | None
    to: Form
    out: Path
    verify: bool = False
    overwrite: bool = False
    gguf_type: GgufType | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model: the folder of its weights, the adapter on them if any, and how its text was written.

    `decided` says that its tokenizer comes from a trained result, whose parser of calls is settled.
    """

    base: Path
    adapter: Path | None
    run: RunInfo | None
    renderer: ChatRenderer
    decided: bool
    origin: Origin

    @property
    def style(self) -> Style | None:
        """The dialect that rows with tools were trained in, None where it is unknown."""
        return self.run.style if self.run is not None else None


def export(
    *,
    model: str,
    adapter: str | None,
    to: Form,
    out: Path,
    verify: bool,
    overwrite: bool,
    gguf_type: GgufType | None,
) -> int:
    """Write a trained model as a folder that others load; returns the exit code.

    It is 1 when others read the tokenizer of that folder otherwise than it was used in training.
    """
    order = Order(model=model, adapter=adapter, to=to, out=out, verify=verify, overwrite=overwrite, gguf_type=gguf_type)
    trained = _find_trained(order)
    _check_out(order, trained)
    template = build_template(trained.renderer, _style_of(trained)) if order.to == "ollama" else None
    as_gguf = order.to == "gguf" or (order.to == "ollama" and _is_ours(order, trained))
    if as_gguf:
        require_package("gguf", extra="gguf", what=f"--to {order.to}")
        plan_gguf(trained.base, trained.renderer, advice=_advice(order))
    from actune.modeling.tokenizer_files import TokenizerSaver

    saver = TokenizerSaver(trained.renderer, trained.style, say=_say, decided=trained.decided)
    with atomic_folder(order.out) as folder:
        if as_gguf:
            weights = f"./{_write_gguf(order, trained, folder, saver).path.name}"
        else:
            _write_merged(order, trained, folder, saver)
            weights = "."
        if template is not None:
            _write_modelfile(template, trained, folder, weights)
    _say(f"{'merged model' if order.to == 'merged' else order.to} written to {order.out}")
    return 1 if saver.faulty else 0


def _write_merged(order: Order, trained: Trained, folder: Path, saver: TokenizerSaver) -> None:
    from actune.modeling.merge import compare_merged

    reference = _write_weights(trained, folder, saver, compare=order.verify)
    if reference is not None:
        difference = compare_merged(folder, reference)
        _say(f"largest relative difference of logits to the adapter model: {difference:.1e}")


def _write_gguf(order: Order, trained: Trained, folder: Path, saver: TokenizerSaver) -> Written:
    labels = Labels(
        name=safe_name(order.out.resolve().name),
        license=trained.origin.license,
        base_model=trained.origin.name,
        base_url=trained.origin.url,
    )
    with _weights_folder(order, trained, saver) as source:
        written, plan = write_gguf_folder(
            source, folder, trained.renderer, kind=order.gguf_type, labels=labels, advice=_advice(order)
        )
        saver(folder)
        for notice in plan.notices:
            _say(f"note: {notice}")
        if written.wider:
            _say(f"note: {len(written.wider)} weights are f16: their rows are no whole blocks of q8_0")
        if order.verify:
            _verify_gguf(written, source, trained)
    return written


def _write_modelfile(template: GoTemplate, trained: Trained, folder: Path, weights: str) -> None:
    context = None
    if trained.run is not None and (longest := int(trained.run.settings["data"]["max_length"])) > 0:
        context = longest
    text = write_modelfile(
        template,
        weights=weights,
        stops=trained.renderer.profile.stops,
        dialect=_style_of(trained),
        context=context,
        license_name=trained.origin.license,
    )
    atomic_text(folder / "Modelfile", text)
    same = len(template.outcomes) - len(template.differing)
    _say(f"Ollama's prompts: {same} of {len(template.outcomes)} conversations give the text of training")
    for outcome in template.differing:
        _say(f"note: not the same with {outcome.case.name}: {outcome.where}")
    for reason in template.reasons:
        _say(f"note: not written for Ollama: {reason}")
    if not template.call:
        _say("note: Ollama's parser does not find the calls of this model; its answers come back as text")


def _is_ours(order: Order, trained: Trained) -> bool:
    """Whether the weights for Ollama can be a GGUF file; else it has to convert the safetensors itself."""
    try:
        plan_gguf(trained.base, trained.renderer, advice=_advice(order))
    except ConfigError as error:
        if order.gguf_type is not None:
            raise
        _say(
            f"note: {error.message}; the folder holds safetensors, which Ollama converts for the kinds of models it knows"
        )
        return False
    return True


def _style_of(trained: Trained) -> Style:
    """Return the dialect of calls: of the run, else the chat template's where it shows tools, else ReAct."""
    if trained.style is not None:
        return trained.style
    return "chat" if trained.renderer.profile.tools and trained.renderer.profile.arguments is not None else "react"


def _verify_gguf(written: Written, source: Path, trained: Trained) -> None:
    from actune.exporting.gguf_check import check_gguf
    from actune.modeling.merge import stored_dtype

    kept = _LOSSLESS[str(stored_dtype(source)).removeprefix("torch.")]
    found = check_gguf(written, source, trained.renderer.tokenizer, lossless=written.type in (kept, "f32"))
    how = "with the config.json beside it" if found.with_config else "from the file alone"
    _say(f"read by transformers {how}: relative difference of logits in fp32 {found.difference:.1e}")
    if found.tokenizer is not None:
        _say(
            f"note: transformers reads the tokenizer of the file otherwise, {found.tokenizer}; take the tokenizer.json beside "
            "it"
        )
    if found.llama_cpp is not None:
        _say(f"read by llama.cpp: relative difference of logits {found.llama_cpp:.1e}")
    if found.llama_cpp_ids is not None:
        _say(f"note: llama.cpp's tokenizer differs: {found.llama_cpp_ids}")


@contextmanager
def _weights_folder(order: Order, trained: Trained, saver: TokenizerSaver) -> Iterator[Path]:
    """Yield a folder with the weights as safetensors: that of the model, or one with the adapter merged, then removed."""
    from actune.modeling.merge import compare_merged

    if trained.adapter is None:
        yield trained.base
        return
    place = order.out.with_name(f".{order.out.name}.weights.partial")
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
        reference = _write_weights(trained, place, lambda _: None, compare=order.verify)
        if reference is not None:
            _say(f"merged: relative difference of logits to the adapter model {compare_merged(place, reference):.1e}")
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_weights(
    trained: Trained, folder: Path, copy_tokenizer: Callable[[Path], None], *, compare: bool
) -> Reference | None:
    """Write weights, config and tokenizer of a trained model into a folder; return what it computes with `compare`."""
    from actune.modeling.merge import refer_to, write_merged

    if trained.adapter is not None:
        return write_merged(trained.base, trained.adapter, folder, copy_tokenizer=copy_tokenizer, compare=compare)
    for pattern in ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"):
        for path in sorted(trained.base.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    copy_tokenizer(folder)
    return refer_to(trained.base) if compare else None


# --- what is exported, and where to ---


def _find_trained(order: Order) -> Trained:
    run = read_run(Path(order.model))
    adapter = Path(order.adapter) if order.adapter is not None else (run.adapter if run else None)
    full = run.folder / "model" if run is not None else None
    if adapter is None and run is not None and not (full is not None and full.is_dir()):
        raise ConfigError(
            f"the run {order.model} has no result yet: neither adapter/ nor model/ is there",
            fix="finish it with --resume auto, or name a checkpoint's adapter with --adapter",
        )
    if adapter is None and run is None and order.to == "merged":
        raise ConfigError(f"{order.model} is no run with an adapter", fix="name the adapter folder with --adapter DIR")
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ConfigError(f"{adapter} is no adapter: adapter_config.json is missing", fix="name it with --adapter DIR")
    base = run.model_dir if run is not None else resolve_model(order.model, None)
    named = str(run.settings["model"]["model_id_or_path"]) if run is not None else order.model
    origin = find_origin(named, base)
    if adapter is None and full is not None:
        base = full
    refuse_no_model(base, weights=True)
    # The run's own tokenizer and template, else those of the base model.
    trained = adapter if adapter is not None else full
    decided = trained is not None and (trained / "tokenizer.json").is_file()
    renderer = load_renderer(trained if decided and trained is not None else base)
    if decided and run is not None:  # older runs stored none
        decided = "response_template" in renderer.tokenizer.config
    return Trained(base=base, adapter=adapter, run=run, renderer=renderer, decided=decided, origin=origin)


def _check_out(order: Order, trained: Trained) -> None:
    out = order.out
    if out.exists() and (out.is_file() or any(out.iterdir())) and not order.overwrite:
        raise ConfigError(f"{out} is not empty", fix="give another --out or --overwrite")
    for given in (trained.base, trained.adapter, Path(order.model)):
        if given is not None and out.resolve() == given.resolve():
            raise ConfigError(f"{out} is read from, so it is not replaced", fix="give another --out")


def _advice(order: Order) -> str:
    """Return how llama.cpp's own script is called for what actune does not write."""
    adapter = f" --adapter {order.adapter}" if order.adapter is not None else ""
    kind = order.gguf_type or "auto"
    return (
        f"use llama.cpp's script: actune export --model {order.model}{adapter} --to merged --out MERGED; then, in a clone of "
        f"llama.cpp: python convert_hf_to_gguf.py MERGED --outfile {order.out}/model.gguf --outtype {kind}"
    )


def _say(text: str) -> None:
    stderr().print(text, markup=False, highlight=False)

"""`actune export`: a trained model in a form that others load, with a proof that it is the same, a card, and a hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actune.config.extras import require_package
from actune.config.servers import serving_notices
from actune.config.settings import TuningSettings
from actune.core.errors import ConfigError
from actune.core.files import atomic_folder, atomic_text
from actune.exporting.card import Facts, Language, read_report, write_card
from actune.exporting.commands import Command, Served, list_commands
from actune.exporting.gguf import GgufType, Labels, Written
from actune.exporting.gguf_folder import plan_gguf, write_gguf_folder
from actune.exporting.ollama.modelfile import GoTemplate, build_template, write_modelfile
from actune.exporting.ollama.probes import list_cases, write_prompt
from actune.exporting.origin import safe_name
from actune.exporting.push import parse_target, push
from actune.exporting.react_template import FILE, build_react_template
from actune.exporting.trained import Trained, find_trained, read_run_file, sample_rows
from actune.recipes.writing import stderr
from actune.render.tokenizer import read_json, strip_marks

if TYPE_CHECKING:
    from actune.modeling.merge import Reference
    from actune.modeling.tokenizer_files import TokenizerSaver

Form = Literal["merged", "gguf", "ollama", "adapter"]
_OURS = ("config.json", "adapter_config.json", "Modelfile")
_TITLES = {"merged": "merged model", "gguf": "GGUF file", "ollama": "folder for Ollama", "adapter": "adapter"}
_LOSSLESS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked of `actune export`: its flags."""

    model: str
    adapter: str | None
    to: Form
    out: Path
    verify: bool
    gguf_type: GgufType | None


@dataclass(slots=True, kw_only=True)
class _Work:
    """An export under way: what it is of, where its files are written, and what was said about it."""

    order: Order
    trained: Trained
    folder: Path
    saver: TokenizerSaver
    weights: str = "."
    context: int | None = None
    notices: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Say what a user should know, here and in the card."""
        self.notices.append(text)
        _say(f"note: {text}")


def export(  # noqa: PLR0913 - one parameter a flag
    *,
    model: str,
    adapter: str | None,
    to: Form,
    out: Path,
    verify: bool,
    overwrite: bool,
    gguf_type: GgufType | None,
    push_to_hub: str | None,
    public: bool,
    card_language: Language,
) -> int:
    """Write a trained model as a folder that others load; returns the exit code.

    It is 1 when others read the tokenizer of that folder otherwise than it was used in training; then, or when what was
    written fails its verification, nothing is pushed.
    """
    target = parse_target(push_to_hub) if push_to_hub is not None else None
    order = Order(
        model=model, adapter=adapter, to=to, out=out, verify=verify or target is not None, gguf_type=gguf_type
    )
    trained = find_trained(model, adapter, adapter_needed=to in ("merged", "adapter"))
    _check_out(order, trained, overwrite=overwrite)
    template = build_template(trained.renderer, trained.dialect) if to == "ollama" else None
    as_gguf = to in ("gguf", "ollama") and _is_ours(order, trained)
    if as_gguf:
        require_package("gguf", extra="gguf", what=f"--to {to}")
    from actune.modeling.tokenizer_files import TokenizerSaver

    saver = TokenizerSaver(trained.renderer, trained.style, say=_say, decided=trained.decided)
    with atomic_folder(out) as folder:
        work = _Work(order=order, trained=trained, folder=folder, saver=saver)
        if as_gguf:
            _write_gguf(work)
        elif to == "adapter":
            _write_adapter(work)
        else:
            _write_merged(work)
        if template is not None:
            _write_modelfile(work, template)
        commands = _write_card(work, card_language)
    _say(f"{_TITLES[to]} written to {out}")
    for command in commands:
        _say(f"{command.server}, inside that folder: {command.line}")
        for text in command.notes:
            _say(f"  {text}")
    if saver.faulty:
        return 1
    if target is not None:
        _say(f"pushed: {push(out, target, public=public, say=_say)}")
    return 0


# --- weights ---


def _write_merged(work: _Work) -> None:
    from actune.modeling.merge import compare_merged

    order = work.order
    reference = _write_weights(work.trained, work.folder, work.saver, compare=order.verify)
    _write_react_template(work)
    if reference is not None:
        difference = compare_merged(work.folder, reference)
        _say(f"largest relative difference of logits to the adapter model: {difference:.1e}")
        from actune.modeling.load import load_model

        _verify_call(work, load_model(work.folder, dtype=reference.dtype, device=reference.device))


def _write_adapter(work: _Work) -> None:
    """Copy the adapter; its config names the base by its hub id, or by its bare name, not by a path of this machine."""
    source, origin = work.trained.adapter, work.trained.origin
    if source is None:
        raise ConfigError(f"{work.order.model} was trained without an adapter", fix="use --to merged")
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != "README.md":
            shutil.copyfile(path, work.folder / path.name)
    path = work.folder / "adapter_config.json"
    config = read_json(path) | {"base_model_name_or_path": origin.hub_id or origin.name}
    atomic_text(path, json.dumps(config, ensure_ascii=False, indent=2) + "\n")
    work.saver(work.folder)
    _write_react_template(work)
    if work.order.verify:
        from actune.modeling.merge import load_adapted

        _verify_call(work, load_adapted(work.trained.base, work.folder))


def _write_gguf(work: _Work) -> None:
    order, origin = work.order, work.trained.origin
    labels = Labels(
        name=safe_name(order.out.resolve().name),
        license=origin.license,
        base_model=origin.name,
        base_url=origin.url,
    )
    with _weights_folder(work) as source:
        written, plan = write_gguf_folder(
            source, work.folder, work.trained.renderer, kind=order.gguf_type, labels=labels, advice=_advice(order)
        )
        work.weights, work.context = f"./{written.path.name}", plan.outline.context
        work.saver(work.folder)
        _write_react_template(work)
        for notice in plan.notices:
            work.note(notice)
        if written.wider:
            work.note(f"{len(written.wider)} weights are f16: their rows are no whole blocks of q8_0")
        if order.verify:
            _verify_gguf(work, written, source)


@contextmanager
def _weights_folder(work: _Work) -> Iterator[Path]:
    """Yield a folder with the weights as safetensors: that of the model, or one with the adapter merged, then removed."""
    from actune.modeling.merge import compare_merged

    order, trained = work.order, work.trained
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


# --- proof ---


def _verify_gguf(work: _Work, written: Written, source: Path) -> None:
    from actune.exporting.gguf_check import check_gguf, load_gguf
    from actune.modeling.merge import stored_dtype

    kept = _LOSSLESS[str(stored_dtype(source)).removeprefix("torch.")]
    found = check_gguf(written, source, work.trained.renderer.tokenizer, lossless=written.type in (kept, "f32"))
    how = "with the config.json beside it" if found.with_config else "from the file alone"
    _say(f"read by transformers {how}: relative difference of logits in fp32 {found.difference:.1e}")
    if found.tokenizer is not None:
        work.note(
            f"transformers reads the tokenizer of the GGUF file otherwise, {found.tokenizer}; take the tokenizer.json beside it"
        )
    if found.llama_cpp is not None:
        _say(f"read by llama.cpp: relative difference of logits {found.llama_cpp:.1e}")
    if found.llama_cpp_ids is not None:
        work.note(f"llama.cpp's tokenizer differs: {found.llama_cpp_ids}")
    _verify_call(work, load_gguf(written.path, source if found.with_config else None))


def _verify_call(work: _Work, model: Any) -> None:  # noqa: ANN401 - a model of transformers
    from actune.exporting.tool_call import greedy, make_call

    trained = work.trained
    if not trained.calls:
        _say("no tool call is made: neither training nor the chat template knows any")
        return
    generate = greedy(model, trained.writer)
    exchange = make_call(work.folder, trained.writer, trained.dialect, generate, sample_rows(trained.run))
    by = (
        "the exported model made a tool call"
        if exchange.generated
        else "the model made no call; one written as in training"
    )
    parsers = "transformers' parser and actune read it alike" if exchange.parsed else "no response_template is stored"
    _say(
        f"{by}, from the prompt ids of training ({exchange.prompt}): {exchange.call.name} {exchange.call.arguments}; {parsers}"
    )


# --- what lies beside the weights ---


def _write_react_template(work: _Work) -> None:
    if work.trained.dialect == "chat":
        return
    text, why = build_react_template(work.trained.renderer, work.trained.dialect)
    if text is None:
        work.note(f"no {FILE} for servers: {why}; give them the API list as the system text")
        return
    atomic_text(work.folder / FILE, text)


def _write_modelfile(work: _Work, template: GoTemplate) -> None:
    trained = work.trained
    text = write_modelfile(
        template,
        weights=work.weights,
        stops=trained.renderer.profile.stops,
        dialect=trained.dialect,
        context=trained.longest,
        license_name=trained.origin.license,
    )
    atomic_text(work.folder / "Modelfile", text)
    same = len(template.outcomes) - len(template.differing)
    _say(f"Ollama's prompts: {same} of {len(template.outcomes)} conversations give the text of training")
    for outcome in template.differing:
        _say(f"note: not the same with {outcome.case.name}: {outcome.where}")
    if template.differing:
        work.notices.append(f"Ollama's prompts differ with {', '.join(one.case.name for one in template.differing)}")
    for reason in template.reasons:
        work.note(f"not written for Ollama: {reason}")
    if not template.call and trained.calls:
        work.note("Ollama's parser does not find the calls of this model; its answers come back as text")


def _write_card(work: _Work, language: Language) -> list[Command]:
    """Write README.md and return the commands that serve the folder."""
    order, trained = work.order, work.trained
    spec = read_json(work.folder / "tokenizer_config.json").get("response_template")
    name = safe_name(order.out.resolve().name)
    served = Served(
        form=order.to,
        name=name,
        style=trained.dialect,
        weights=work.weights,
        context=min(filter(None, (trained.longest, work.context)), default=None),
        fields=tuple(spec.get("fields") or ()) if isinstance(spec, dict) else (),
        react_file=(work.folder / FILE).is_file(),
    )
    if order.to == "adapter":
        served = _serve_adapter(served, trained)
    commands = list_commands(served)
    case = next(case for case in list_cases(trained.dialect) if case.tools)
    plain = next(case for case in list_cases(trained.dialect))
    facts = Facts(
        name=name,
        form=order.to,
        origin=trained.origin,
        style=trained.dialect,
        commands=commands,
        prompt=strip_marks(write_prompt(case if trained.calls else plain, trained.writer, trained.dialect)),
        stops=trained.renderer.profile.stops,
        calls=trained.calls,
        run=read_run_file(trained.run) if trained.run is not None else None,
        report=read_report(trained.run.folder) if trained.run is not None else None,
        notices=work.notices,
    )
    atomic_text(work.folder / "README.md", write_card(facts, language))
    return commands


def _serve_adapter(served: Served, trained: Trained) -> Served:
    rank = int(read_json((trained.adapter or trained.base) / "adapter_config.json").get("r") or 0)
    tuning = TuningSettings.model_validate(trained.run.settings["tuning"]) if trained.run is not None else None
    refusals = tuple(serving_notices(tuning, trained.base)) if tuning is not None else ()
    return replace(served, base=trained.origin.hub_id or "BASE", rank=rank, refusals=refusals)


# --- where to ---


def _check_out(order: Order, trained: Trained, *, overwrite: bool) -> None:
    out = order.out
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        if not overwrite:
            raise ConfigError(f"{out} is not empty", fix="give another --out or --overwrite")
        if out.is_file() or not any((out / name).exists() for name in _OURS):
            raise ConfigError(f"{out} is no exported folder, so it is not removed", fix="give another --out")
    for given in (trained.base, trained.adapter, Path(order.model)):
        if given is not None and given.exists() and given.resolve().is_relative_to(out.resolve()):
            raise ConfigError(f"{out} is read from, so it is not replaced", fix="give another --out")


def _is_ours(order: Order, trained: Trained) -> bool:
    """Whether the weights can be a GGUF file; else Ollama has to convert the safetensors itself.

    Raises:
        ConfigError: they cannot, and a GGUF file is what was asked for.
    """
    try:
        plan_gguf(trained.base, trained.renderer, advice=_advice(order))
    except ConfigError as error:
        if order.to == "gguf" or order.gguf_type is not None:
            raise
        _say(
            f"note: {error.message}; the folder holds safetensors, which Ollama converts for the kinds of models it knows"
        )
        return False
    return True


def _advice(order: Order) -> str:
    """Return how llama.cpp's own script is called for what actune does not write."""
    adapter = f" --adapter {order.adapter}" if order.adapter is not None else ""
    kind = order.gguf_type or "auto"
    return (
        f"use llama.cpp's script: actune export --model {order.model}{adapter} --to merged --out MERGED; then, in a clone of "
        f"llama.cpp: python convert_hf_to_gguf.py MERGED --outfile {order.out}/model.gguf --outtype {kind}"
    )


def _say(text: str) -> None:
    stderr().print(text, markup=False, highlight=False, soft_wrap=True)  # commands are copied from here

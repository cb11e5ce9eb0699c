"""`actune export`: a trained model in a form that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from actune.config.run_folder import read_run
from actune.core.errors import ConfigError
from actune.data.hub import refuse_no_model, resolve_model
from actune.recipes.writing import stderr
from actune.render.tokenizer import TextTokenizer, load_templates, save_tokenizer


def export(*, model: str, adapter: str | None, to: Literal["merged"], out: Path, verify: bool, overwrite: bool) -> int:
    """Merge an adapter into its base model and write it as an ordinary model folder."""
    if to != "merged":
        raise ConfigError(f"--to {to} is not available in this version", fix="use --to merged")
    run = read_run(Path(model))
    folder = Path(adapter) if adapter is not None else (run.adapter if run else None)
    if folder is None:
        raise ConfigError(f"{model} is no run with an adapter", fix="name the adapter folder with --adapter DIR")
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder} is no adapter: adapter_config.json is missing", fix="name it with --adapter DIR")
    if out.exists() and (out.is_file() or any(out.iterdir())) and not overwrite:
        raise ConfigError(f"{out} is not empty", fix="give another --out or --overwrite")
    base = run.model_dir if run is not None else resolve_model(model, None)
    refuse_no_model(base, weights=True)
    for given in (base, folder, Path(model)):
        if out.resolve() == given.resolve():
            raise ConfigError(f"{out} is read from, so it is not replaced", fix="give another --out")
    from actune.modeling.merge import export_merged

    # The run's own tokenizer and template, else those of the base model.
    tokenizer_dir = folder if (folder / "tokenizer.json").is_file() else base
    tokenizer = TextTokenizer.from_folder(tokenizer_dir)
    templates = load_templates(tokenizer_dir, tokenizer)
    difference = export_merged(
        base, folder, out, verify=verify, copy_tokenizer=lambda place: save_tokenizer(tokenizer, templates, place)
    )
    console = stderr()
    console.print(f"merged model written to {out}", highlight=False)
    if difference is not None:
        console.print(f"largest relative difference of logits to the adapter model: {difference:.1e}", highlight=False)
    return 0

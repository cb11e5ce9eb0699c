"""`actune export`: a trained model in a form that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from actune.config.run_folder import read_run
from actune.core.errors import ConfigError
from actune.data.reading.hub import refuse_no_model, resolve_model
from actune.recipes.writing import stderr
from actune.render.chat import load_renderer


def export(*, model: str, adapter: str | None, to: Literal["merged"], out: Path, verify: bool, overwrite: bool) -> int:
    """Merge an adapter into its base model and write it as an ordinary model folder; returns the exit code.

    It is 1 when others read the tokenizer of that folder otherwise than it was used in training.
    """
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
    from actune.modeling.response_template import KEY
    from actune.modeling.tokenizer_files import TokenizerSaver

    console = stderr()
    # The run's own tokenizer and template, else those of the base model.
    trained = (folder / "tokenizer.json").is_file()
    renderer = load_renderer(folder if trained else base)
    saver = TokenizerSaver(
        renderer,
        run.style if run is not None else None,
        say=lambda text: console.print(text, markup=False),
        decided=trained and (run is None or KEY in renderer.tokenizer.config),
    )
    difference = export_merged(base, folder, out, verify=verify, copy_tokenizer=saver)
    console.print(f"merged model written to {out}", highlight=False)
    if difference is not None:
        console.print(f"largest relative difference of logits to the adapter model: {difference:.1e}", highlight=False)
    return 1 if saver.faulty else 0

"""`actune sft`, the whole story: settings -> rows -> token trees -> training -> adapter -> before/after report."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actune.config.conflicts import settings_notices
from actune.config.extras import require_extras
from actune.config.load import dump_settings
from actune.config.run_folder import QUARANTINE, check_folder, discard_failed_start, open_folder, read_run, write_run
from actune.config.servers import serving_notices
from actune.config.settings import Settings
from actune.core.errors import ConfigError, MissingExtraError
from actune.core.parts import read_weights
from actune.core.values import read_variables
from actune.data.choose import Rows, choose_rows
from actune.data.inspect.rows import counts_table
from actune.data.mixture import find_shares, mixture_chart
from actune.data.prepare import Prepared, open_cache, prepare
from actune.data.reading.hub import refuse_no_model, resolve_model
from actune.data.reading.sources import write_quarantine
from actune.data.store.cache import Cache
from actune.data.store.store import EncodingRecipe, RowStore
from actune.data.store.workers import count_cores
from actune.recipes.compare import show_comparison
from actune.recipes.comparison import FOLDER as REPORT
from actune.recipes.comparison import Plan, compare_run, main_style, plan_comparison
from actune.recipes.monitoring import Monitor, plan_monitor
from actune.recipes.probes import make_probe
from actune.recipes.writing import stderr
from actune.render.encoder import Encoder
from actune.render.named_tokens import find_tokens
from actune.training.trackers import require_trackers

if TYPE_CHECKING:
    from actune.modeling.tokenizer_files import TokenizerSaver
    from actune.training.probing import Probe
    from actune.training.ranks import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run whose data is read, rendered and counted; nothing is trained yet.

    `cache` holds the files that the rows are mapped from.
    """

    settings: Settings
    folder: Path
    model_dir: Path
    encoder: Encoder
    prepared: Prepared
    comparison: Plan | None
    monitor: Monitor
    cache: Cache


def sft(settings: Settings, *, opened: bool = False, started: float | None = None) -> int:
    """Fine-tune a model; returns the exit code.

    With `opened` the caller has opened the folder of the run and may have put files into it. `started` is the
    time.monotonic() from which the report counts, now unless given.

    The first failures cost no time: settings, folder, tokenizer and template, then rows, and only then the model. With
    several processes rank 0 alone reads data and writes files; the others receive the encoded rows.

    Raises:
        ActuneError: what, where, why, and what to do.
    """
    console = stderr()
    started = time.monotonic() if started is None else started
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        job = prepare_job(settings, console, opened=opened)
        if settings.output.dry_run:
            _show_plan(job, console)
            return 0
        # Importing torch takes seconds, in which Ctrl-C can come as well.
        with discard_failed_start(job.folder, resume=settings.output.resume is not None):
            from actune.training.ranks import Ranks

            code = _train(job.settings, job, Ranks.start(), console)
        return _compare(job, console, started) or code
    from actune.training.ranks import Ranks

    ranks = Ranks.start()
    try:
        shared_job = None
        with ranks.together("preparing the data"):
            if ranks.leads:
                shared_job = prepare_job(settings, console)
                if settings.output.dry_run:
                    _show_plan(shared_job, console)
        code = 0 if settings.output.dry_run else _train(settings, shared_job, ranks, console)
    finally:
        ranks.close()
    # One process measures; the others have nothing left to wait for.
    if shared_job is None or settings.output.dry_run:
        return code
    return _compare(shared_job, console, started) or code


def prepare_job(settings: Settings, console: Console, *, opened: bool = False) -> Job:
    """Do everything that needs no weights: open the folder, read, render and count the rows, write run.json.

    Raises:
        ConfigError: folder, model folder, template or sources are wrong, or the run cannot be continued.
        DataError: the rows leave nothing to train on.
    """
    output = settings.output
    folder = Path(output.output_dir)
    earlier = read_run(folder) if output.resume else None
    date = settings.render.now or (earlier.date if earlier is not None else datetime.datetime.now().astimezone().date())
    for notice in settings_notices(settings):
        console.print(f"note: {notice}", markup=False)
    if not output.dry_run and not opened:
        check_folder(folder, resume=output.resume is not None, overwrite=output.overwrite)
        if output.resume not in (None, "auto") and not Path(output.resume).is_dir():
            raise ConfigError(f"--resume {output.resume} is no folder", fix="give a checkpoint-N folder or auto")
    _check_packages(settings, console)
    model_dir = find_model(settings)
    recipe = make_recipe(settings, model_dir, date)
    encoder = recipe.encoder
    find_tokens(encoder.renderer.tokenizer, settings.tuning.trainable_tokens, "trainable_tokens")
    serving = serving_notices(settings.tuning, model_dir)
    for notice in (*encoder.renderer.notices(), *serving):
        console.print(f"note: {notice}", markup=False)
    cache, notices = open_cache(settings)
    for notice in notices:
        console.print(f"note: {notice}", markup=False)
    rows, prepared = _read_rows(settings, recipe, cache, console)
    _show_rows(settings, prepared, console)
    monitor = plan_monitor(settings, rows, prepared, encoder)
    for notice in monitor.probe.notices:
        console.print(f"note: {notice}", markup=False)
    comparison = plan_comparison(settings, rows, encoder) if output.compare and not output.dry_run else None
    for notice in comparison.notices if comparison is not None else ():
        console.print(f"note: {notice}", markup=False)
    if not output.dry_run:
        if not opened:
            open_folder(folder, resume=output.resume is not None, overwrite=output.overwrite)
        with discard_failed_start(folder, resume=output.resume is not None):
            write_quarantine(folder / QUARANTINE, prepared.quarantined)
            write_run(
                folder,
                settings=dump_settings(settings),
                model_dir=model_dir,
                date=date,
                fingerprint=prepared.fingerprint,
                sources=[asdict(count) for count in prepared.counts],
                notices=[*serving, *prepared.notices],
                style=main_style(encoder, rows.train),
            )
    return Job(
        settings=settings,
        folder=folder,
        model_dir=model_dir,
        encoder=encoder,
        prepared=prepared,
        comparison=comparison,
        monitor=monitor,
        cache=cache,
    )


def _read_rows(settings: Settings, recipe: EncodingRecipe, cache: Cache, console: Console) -> tuple[Rows, Prepared]:
    """Choose and encode the rows of a run, while a bar shows how far that is."""
    processes = settings.data.dataset_num_proc or count_cores()
    store = RowStore(recipe, cache, processes=processes)
    with _progress(console) as progress:
        reading = progress.add_task("reading rows", total=None)
        rows = choose_rows(
            settings, cache, store, processes=processes, advance=lambda size: progress.advance(reading, size)
        )
        progress.remove_task(reading)
        encoding = progress.add_task("encoding rows", total=len(set(rows.train)) + len(rows.validation))
        prepared = prepare(settings, rows, store, advance=lambda count: progress.advance(encoding, count))
    cache.prune()
    return rows, prepared


def _show_rows(settings: Settings, prepared: Prepared, console: Console) -> None:
    """Print the table of the rows, the mixture and what has to be said of them."""
    output, training = settings.output, settings.training
    console.print(counts_table(prepared, console.width))
    shares = find_shares(prepared)
    if len(shares) > 1:
        step = training.batch_size * training.gradient_accumulation_steps * int(os.environ.get("WORLD_SIZE", "1"))
        console.print(mixture_chart(shares, step=step, width=console.width))
    for notice in prepared.notices:
        console.print(f"note: {notice}", markup=False)
    if prepared.quarantined:
        place = "" if output.dry_run else f", each with its reason in {Path(output.output_dir) / QUARANTINE}"
        console.print(f"note: {len(prepared.quarantined):,} rows are not trained on{place}", markup=False)


def _check_packages(settings: Settings, console: Console) -> None:
    """Check that what the run needs is installed; a dry run may plan for another machine."""
    try:
        require_extras(settings)
        require_trackers(settings.monitor.report_to)
    except MissingExtraError as error:
        if not settings.output.dry_run:
            raise
        console.print(f"note: {error.message}: {error.fix}", markup=False)


def _show_plan(job: Job, console: Console) -> None:
    from actune.recipes.plan import show_plan  # imports torch

    show_plan(job.settings, job.prepared, job.monitor.held_out, job.model_dir, console)


def find_model(settings: Settings) -> Path:
    """Return the local folder of the model of a run, downloaded if need be.

    Raises:
        ConfigError: there is none, or the folder holds no model that can be trained.
    """
    model = settings.model
    weights = not settings.output.dry_run
    folder = resolve_model(
        model.model_id_or_path, model.model_revision, with_code=model.trust_remote_code, weights=weights
    )
    refuse_no_model(folder, weights=weights)
    return folder


def make_recipe(settings: Settings, model_dir: Path, date: datetime.date) -> EncodingRecipe:
    """Return how a run writes its rows; its date is frozen."""
    render, template = settings.render, settings.model.chat_template
    if template is not None and not Path(template).is_file():
        raise ConfigError(f"chat_template {template} is no file", fix="give a Jinja file")
    options = {
        "dialect": render.dialect,
        "chat_template": template,
        "now": date.isoformat(),
        "history_reasoning": render.history_reasoning,
        "raw_control_tokens": render.raw_control_tokens,
        "allow_loss": list(render.allow_loss),
        "variables": read_variables(render.template_variables),
        "weights": asdict(read_weights(render.loss_weights)),
    }
    return EncodingRecipe(
        folder=str(model_dir),
        options=options,
        max_length=settings.data.max_length,
        truncation=settings.data.truncation_strategy,
    )


def _train(settings: Settings, job: Job | None, ranks: Ranks, console: Console) -> int:
    """Train on every process; `job` is None on those that received their rows.

    Returns 1 when the tokenizer that was saved is not read by others as it was used.
    """
    from actune.training.run import run_training

    folder = Path(settings.output.output_dir)
    with ranks.together("finding the model"):
        model_dir = find_model(settings)
    save_tokenizer = _tokenizer_saver(job, _speaker(console, ranks))
    with _leave_well(settings, folder, ranks, console):
        result = run_training(
            settings=settings,
            model_dir=model_dir,
            train_rows=job.prepared.train if job is not None else None,
            validation_rows=job.prepared.validation if job is not None else None,
            held_out_rows=job.monitor.held_out if job is not None else None,
            probe=_make_probe(job),
            run_dir=folder,
            ranks=ranks,
            resume_from=_find_checkpoint(settings, folder, ranks, _speaker(console, ranks)),
            fingerprint=job.prepared.fingerprint if job is not None else "",
            save_extra=save_tokenizer if save_tokenizer is not None else lambda _folder: None,
            say=_speaker(console, ranks),
        )
    if ranks.leads:
        losses = "no step had a loss"
        if result.first_loss is not None and result.last_loss is not None:
            losses = f"loss {result.first_loss:.4f} -> {result.last_loss:.4f}"
        console.print(
            f"Done: {result.steps:,} steps in {result.seconds:.0f} s, {losses}. Result: {result.folder}", markup=False
        )
    return 1 if save_tokenizer is not None and save_tokenizer.faulty else 0


def _make_probe(job: Job | None) -> Probe | None:
    """Return what probes the model while it is trained, in the process that leads."""
    if job is None or not job.monitor.probe.items:
        return None
    return make_probe(job.monitor.probe, job.encoder, max_tokens=job.settings.monitor.probe_tokens)


def _compare(job: Job, console: Console, started: float) -> int:
    """Measure base and result and write the report; the trained result is safe whatever happens here."""
    plan = job.comparison
    if plan is None:
        return 0
    from actune.modeling.load import release_memory

    release_memory()
    page = job.folder / REPORT / "index.html"
    try:
        with _progress(console) as progress:
            task = progress.add_task("comparing before and after", total=2 * len(plan.items))
            comparison = compare_run(
                job.settings,
                job.folder,
                plan,
                job.encoder,
                started=started,
                say=_say(console),
                advance=lambda: progress.advance(task),
            )
    except BaseException:
        console.print(
            f"The training is complete in {job.folder}; the comparison is not. The same command with --resume auto "
            "makes it up; --compare false leaves it out.",
            markup=False,
        )
        raise
    if comparison is not None:
        show_comparison(comparison, job.settings.output.compare_margin, console, metrics=False)
        console.print(f"Report: {page}", markup=False)
    return 0


@contextmanager
def _leave_well(settings: Settings, folder: Path, ranks: Ranks, console: Console) -> Iterator[None]:
    """When training ends early, say how to go on, or leave the folder as empty as it was."""
    if not ranks.leads:
        yield
        return
    try:
        with discard_failed_start(folder, resume=settings.output.resume is not None):
            yield
    except KeyboardInterrupt:
        newest = _newest(folder)
        state = f"{newest} is complete" if newest is not None else f"{folder} has no checkpoint yet"
        goes = "goes on" if newest is not None else "starts again"
        console.print(f"{state}; the same command with --resume auto {goes}", markup=False)
        raise


def _newest(folder: Path) -> Path | None:
    from actune.training.checkpoint import latest

    return latest(folder)


def _find_checkpoint(settings: Settings, folder: Path, ranks: Ranks, say: Callable[[str], None]) -> Path | None:
    """Return the checkpoint to go on from; only the leading process looks, the others are told by training.

    Raises:
        CheckpointError: there are checkpoints but none is sound.
        TrainingError: the leading process failed.
    """
    wanted = settings.output.resume
    if wanted is None:
        return None
    if wanted != "auto":
        return Path(wanted)
    from actune.training.checkpoint import find_newest

    with ranks.together("looking for a checkpoint"):
        if not ranks.leads:
            return None
        found = find_newest(folder)
        for notice in found.notices:
            say(f"note: {notice}")
        if found.folder is None:
            say(f"note: {folder} has no complete checkpoint yet: training starts from the beginning.")
        return found.folder


def _tokenizer_saver(job: Job | None, say: Callable[[str], None]) -> TokenizerSaver | None:
    if job is None:
        return None
    from actune.modeling.tokenizer_files import TokenizerSaver

    run = read_run(job.folder)
    return TokenizerSaver(job.encoder.renderer, run.style if run is not None else None, say=say)


def _speaker(console: Console, ranks: Ranks) -> Callable[[str], None]:
    return _say(console) if ranks.leads else lambda _text: None


def _say(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, markup=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )

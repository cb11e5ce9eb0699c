"""Before and after a training: what is measured is chosen before it, the two models are measured after it.

Measured on the saved result, loaded again, as its users will load it. Agent: the first call on held-out agent rows, by
tools seen or not seen in training. General: the likelihood of held-out general rows. Identity: unseen paraphrases.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actune.config.run_folder import FILE, read_run
from actune.config.settings import Settings
from actune.core.errors import DataError, RenderError
from actune.core.files import atomic_text
from actune.core.types import Conversation, Source, Style
from actune.data.asked import Asked
from actune.data.choose import Rows
from actune.data.encode import Strategy, encode_rows
from actune.data.identity import heldout_rows
from actune.data.mix import draw
from actune.data.store.table import Row, RowTable
from actune.evals.compare import Comparison, compare_scores
from actune.evals.evaluate import check_items, evaluate
from actune.evals.items import Score, write_scores
from actune.evals.report import ReportData, TrainedExample, Transcript, write_page
from actune.evals.task_files import load_tasks
from actune.evals.tasks import (
    Item,
    agent_items,
    find_gold_fault,
    identity_items,
    nll_items,
    over_trigger_items,
)
from actune.evals.transcripts import pair_traces, run_prompts
from actune.recipes.agents import find_weights, pick_style
from actune.render.encoder import Encoder
from actune.render.tokenizer import strip_marks

if TYPE_CHECKING:
    from actune.agents.engines.engine import Engine
    from actune.agents.trace import Trace

FOLDER = "report"
_BATCH = 8
# Rows tried for the trained example; one of the shortest does nearly always.
_EXAMPLES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be measured, and one trained row to show; chosen before training, without weights.

    `encoder` writes the items where it is not the one that writes the rows of the training.
    """

    items: tuple[Item, ...]
    example: TrainedExample | None
    notices: tuple[str, ...]
    encoder: Encoder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    scores: list[Score]
    traces: list[Trace]


def plan_comparison(settings: Settings, rows: Rows, encoder: Encoder) -> Plan:
    """Choose the held-out rows: validation rows first, then rows of the sources that the mixture did not draw.

    Rows that ask what a row of the training asks are left out, as are those that cannot be trained on either.
    What this template cannot be measured with is left out with a notice. With `compare_tasks` those are measured instead.

    Raises:
        ActuneError: a task that was asked for cannot be read or measured.
    """
    if settings.output.compare_tasks:
        return _plan_tasks(settings, rows, encoder)
    count, seed = settings.output.compare_items, settings.training.seed
    asked = rows.asked
    spare = draw(rows.spare_agent, len(rows.spare_agent), seed, purpose="compare agent")
    agent = choose_measurable([*rows.validation, *spare], count, asked, encoder, settings)
    spare = draw(rows.spare_general, len(rows.spare_general), seed, purpose="compare general")
    general = choose_measurable(spare, count, asked, encoder, settings)
    offered = [row for row in agent if row.tools]
    with_tools = [row for row in offered if find_gold_fault(row) is None]
    notices = []
    if len(with_tools) < len(offered):
        notices.append(
            f"{len(offered) - len(with_tools)} held-out rows are not compared: the call in them cannot be read"
        )
    if not with_tools:
        notices.append("the comparison has no agent axis: no row with tools is held out (--validation_ratio)")
    if not general:
        notices.append(
            "the comparison has no general axis: every general row is trained on; a larger --train_dataset_mix_ds, "
            "or a smaller --train_dataset_mix_ratio, leaves some to measure with"
        )
    parts = [
        agent_items(with_tools, task="held-out agent rows", seen_tools=trained_tools(rows), steps="first"),
        nll_items(general, task="held-out general rows"),
    ]
    names, authors = settings.data.model_name, settings.data.model_author
    if names and authors and settings.data.self_cognition_sample:
        asked_rows = heldout_rows(names=names, authors=authors, file=settings.data.self_cognition_file)
        plain = [row for row in general if not row.tools]
        parts.append(identity_items(asked_rows, names=names, authors=authors, task="identity"))
        parts.append(over_trigger_items(plain, names=names, authors=authors, task="over-trigger"))
    items: list[Item] = []
    for part in parts:
        try:
            check_items(part, encoder=encoder, max_tokens=settings.output.compare_tokens)
        except (RenderError, DataError) as error:
            # What cannot be measured is no reason not to train.
            notices.append(f"not compared, {part[0].task}: {error.message}")
        else:
            items += part
    return Plan(items=tuple(items), example=_example(rows.train, encoder), notices=tuple(notices))


def main_style(encoder: Encoder, rows: Iterable[Row]) -> Style | None:
    """Return the dialect of most rows with tools: what later commands write where nothing else is said."""
    counts: Counter[Style] = Counter()
    first: dict[Style, Row] = {}
    for row in rows:
        if row.has_tools:
            counts[row.style] += 1
            first.setdefault(row.style, row)
    # Of rows with tools, what they were written in decides the dialect.
    styles = Counter[Style]()
    for style, count in counts.items():
        styles[encoder.dialect_of(first[style].load()).name] += count
    return max(sorted(styles), key=lambda name: styles[name]) if styles else None


def trained_tools(rows: Rows) -> frozenset[str]:
    """Return the names of all tools that trained rows offer or call."""
    return frozenset().union(*{row.tool_names for row in rows.train})


def _plan_tasks(settings: Settings, rows: Rows, encoder: Encoder) -> Plan:
    names, authors = settings.data.model_name, settings.data.model_author
    items = load_tasks(settings.output.compare_tasks, names=names, authors=authors)
    # The agent is used in the dialect it was trained in, whatever the rows of a task are written in.
    style = main_style(encoder, rows.train) if settings.render.dialect == "auto" else None
    writer = encoder if style is None else Encoder(encoder.renderer, dialect=style)
    check_items(items, encoder=writer, max_tokens=settings.output.compare_tokens)
    notices = () if settings.data.overlap_strategy == "none" else _asked_notices(items, rows.asked)
    return Plan(items=tuple(items), example=_example(rows.train, encoder), notices=tuple(notices), encoder=writer)


def _asked_notices(items: Sequence[Item], asked: Asked) -> Iterator[str]:
    """Say of each task how many of its conversations ask what training rows ask; they are measured all the same."""
    tasks: dict[str, dict[Source, Conversation]] = {}
    for item in items:
        tasks.setdefault(item.task, {})[item.conversation.source] = item.conversation
    for task, conversations in tasks.items():
        held = RowTable.of_conversations(list(conversations.values()), name=task).rows()
        found = asked.find(held)
        if found:
            first = found[0]
            yield (
                f"{len(found):,} of {len(held):,} conversations of the task {task} ask what training rows ask, for example "
                f"{held[first.held_row].source} and {asked.rows[first.train_row].source}: there, memory is measured"
            )


def compare_run(
    settings: Settings,
    folder: Path,
    plan: Plan,
    encoder: Encoder,
    *,
    started: float,
    say: Callable[[str], None],
    advance: Callable[[], None] = lambda: None,
) -> Comparison | None:
    """Measure the base model and the result of a run, and write `report/`; None when there is nothing to measure.

    `started` is the time.monotonic() from which the report counts its seconds. `advance` is called after each item of
    either model.

    Raises:
        ActuneError: a model cannot be loaded or an item cannot be measured.
    """
    if not plan.items:
        say("Nothing is held out, so there is nothing to compare.")
        return None
    from actune.agents.engines.loading import load_engine
    from actune.training.metrics import read_peak_memory

    run = read_run(folder)
    assert run is not None  # sft wrote it
    weights, adapter = find_weights(str(folder), None)
    remote, dtype = settings.model.trust_remote_code, settings.model.dtype
    style = run.style or pick_style(encoder)

    def measure(engine: Engine) -> _Measured:
        scores = evaluate(
            plan.items,
            engine=engine,
            encoder=plan.encoder or encoder,
            max_tokens=settings.output.compare_tokens,
            advance=advance,
        )
        traces = run_prompts(engine, encoder, style=style, tokens=settings.output.compare_tokens)
        return _Measured(scores=scores, traces=traces)

    engine = load_engine(weights, adapter, dtype=dtype, batch_size=_BATCH, trust_remote_code=remote)
    tuned = measure(engine)
    if adapter is not None:
        with engine.without_adapter() as base_engine:
            base = measure(base_engine)
    else:
        del engine  # two models need not fit side by side
        engine = load_engine(run.model_dir, dtype=dtype, batch_size=_BATCH, trust_remote_code=remote)
        base = measure(engine)
    cost = {"seconds": time.monotonic() - started, "peak_memory_bytes": read_peak_memory(engine.device)}
    return write_report(settings, folder, plan, base, tuned, cost)


def write_report(
    settings: Settings, folder: Path, plan: Plan, base: _Measured, tuned: _Measured, cost: Mapping[str, float]
) -> Comparison:
    """Write items, comparison and page of a run into `report/`; `cost` are its seconds and peak memory."""
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    files = (place / "base.jsonl", place / "tuned.jsonl")
    for file, measured in zip(files, (base, tuned), strict=True):
        write_scores(file, measured.scores)
    comparison = compare_scores(
        base.scores, tuned.scores, margin=settings.output.compare_margin, files=(str(files[0]), str(files[1]))
    )
    transcripts = pair_traces(base.traces, tuned.traces)
    content = comparison.to_json()
    extra: dict[str, float] = {**_extra(tuned.scores), **cost, "margin": settings.output.compare_margin}
    whole = content | {"transcripts": [asdict(one) for one in transcripts], "extra": extra}
    atomic_text(place / "report.json", json.dumps(whole, ensure_ascii=False, indent=1) + "\n")
    write_page(place / "index.html", _page_data(folder, plan, content, base, tuned, transcripts, extra))
    return comparison


def _page_data(
    folder: Path,
    plan: Plan,
    content: dict[str, Any],
    base: _Measured,
    tuned: _Measured,
    transcripts: Sequence[Transcript],
    extra: dict[str, Any],
) -> ReportData:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return ReportData(
        comparison=content,
        base_scores=base.scores,
        tuned_scores=tuned.scores,
        transcripts=transcripts,
        run=json.loads((folder / FILE).read_text(encoding="utf-8")),
        metrics=[json.loads(line) for line in lines],
        trained=plan.example,
        extra=extra,
        title=folder.resolve().name,
    )


def _extra(scores: Sequence[Score]) -> dict[str, float]:
    """Return the two rates of the tuned model that the contract names; absent where nothing measured them."""
    named = {"no_over_trigger": "over_trigger", "no_invented_observation": "invented_observations"}
    extra: dict[str, float] = {}
    for metric, name in named.items():
        values = [score.score for score in scores if score.metric == metric]
        if values:
            extra[name] = 1.0 - sum(values) / len(values)
    return extra


def choose_measurable(
    candidates: Sequence[Row],
    count: int,
    asked: Asked,
    encoder: Encoder,
    settings: Settings,
    *,
    suits: Callable[[Conversation], bool] = lambda _row: True,
) -> list[Conversation]:
    """Return the first `count` candidates that suit, that training has not asked and that could be trained on."""
    # Rows with warnings are measured where they are trained on.
    strategy: Strategy = "discard" if settings.data.check_dataset_strategy == "discard" else "warning"
    chosen: list[Conversation] = []
    for candidate in asked.leave_out(candidates):
        if len(chosen) == count:
            break
        row = candidate.load()
        if not suits(row):
            continue
        encoded = encode_rows(
            [row], encoder, max_length=settings.data.max_length, truncation="delete", strategy=strategy
        )
        if encoded.trees:
            chosen.append(row)
    return chosen


def _example(rows: Sequence[Row], encoder: Encoder) -> TrainedExample | None:
    """Return the first turn of a short row with a call, else of any row."""
    ordered = sorted(rows, key=lambda row: (not row.calls, row.text_size))
    for row in ordered[:_EXAMPLES]:
        try:
            turn = encoder.encode_turns(row.load())[0].turn
        except (DataError, RenderError):
            continue
        return TrainedExample(
            prompt=strip_marks(turn.prompt), completion=strip_marks(turn.completion), source=str(row.source)
        )
    return None

"""How text is written for a model: from flags, or from the run that the model comes from; and rows in their order."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actune.config.run_folder import read_run
from actune.core.errors import ConfigError
from actune.core.parts import read_weights
from actune.core.types import Conversation, Style
from actune.core.values import read_variables
from actune.data.reading.files import find_files, is_glob
from actune.data.reading.hub import resolve_model
from actune.data.reading.sources import Loaded, Quarantined, load_conversations
from actune.render.encoder import DialectName, Encoder

if TYPE_CHECKING:
    from rich.console import Console

HistoryReasoning = Literal["as-data", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How text is written for a model, from flags or from the run that the model comes from.

    `model_dir` holds the tokenizer. `trained_style` is what a run wrote its rows with tools in.
    """

    model_dir: Path
    dialect: DialectName
    chat_template: Path | None
    now: datetime.date | None
    history_reasoning: HistoryReasoning
    raw_control_tokens: bool
    allow_loss: tuple[str, ...] = ()
    template_variables: tuple[str, ...] = ()
    loss_weights: tuple[str, ...] = ()
    trained_style: Style | None = None

    def encoder(self) -> Encoder:
        """Return the encoder that writes so."""
        return Encoder.from_folder(
            self.model_dir,
            dialect=self.dialect,
            chat_template=self.chat_template,
            now=self.now,
            history_reasoning=self.history_reasoning,
            raw_control_tokens=self.raw_control_tokens,
            allow_loss=self.allow_loss,
            variables=read_variables(self.template_variables),
            weights=read_weights(self.loss_weights),
        )


def find_writing(  # noqa: PLR0913 - one parameter a flag
    model: str,
    dialect: DialectName | None,
    chat_template: str | None,
    now: datetime.date | None,
    history_reasoning: HistoryReasoning | None,
    raw_control_tokens: bool,
    *,
    allow_loss: Sequence[str] = (),
    template_variables: Sequence[str] = (),
    loss_weights: Sequence[str] | None = None,
    adapter: Path | None = None,
) -> Writing:
    """Combine flags with what a run folder knows; a flag that is given wins.

    An adapter that comes with a tokenizer was trained with it, template included. `loss_weights` None: this command
    does not lay them, whatever the run did; empty: those of the run.
    """
    run = read_run(Path(model))
    known: dict[str, Any] = dict(run.settings["render"]) if run is not None else {}
    if chat_template is not None and not Path(chat_template).is_file():
        raise ConfigError(f"chat_template {chat_template} is no file", fix="give a Jinja file")
    template = chat_template or (run.settings["model"].get("chat_template") if run is not None else None)
    model_dir = run.model_dir if run is not None else resolve_model(model, None)
    if run is None and adapter is not None and (adapter / "tokenizer.json").is_file():
        model_dir = adapter
    return Writing(
        model_dir=model_dir,
        dialect=dialect or known.get("dialect") or "auto",
        chat_template=Path(template) if template else None,
        now=now or (run.date if run is not None else None),
        history_reasoning=history_reasoning or known.get("history_reasoning") or "as-data",
        raw_control_tokens=raw_control_tokens or bool(known.get("raw_control_tokens")),
        allow_loss=tuple(allow_loss) or tuple(known.get("allow_loss") or ()),
        template_variables=tuple(template_variables) or tuple(known.get("template_variables") or ()),
        loss_weights=_find_weights(loss_weights, known),
        trained_style=run.style if run is not None else None,
    )


def _find_weights(given: Sequence[str] | None, known: Mapping[str, Any]) -> tuple[str, ...]:
    if given is None:
        return ()
    return tuple(given) or tuple(known.get("loss_weights") or ())


def load_rows(spec: str, format_name: str | None) -> Loaded:
    """Return the rows of a file, dataset name or hub id; what was left out on the way is said on stderr."""
    loaded = load_conversations(spec, format_name=format_name, seed=0)
    for notice in loaded.notices:
        stderr().print(f"note: {notice}", markup=False)
    return loaded


def check_out(out: Path, inputs: Sequence[str]) -> None:
    """Refuse an output file that cannot be written, before any work, or that would replace one of the inputs.

    Raises:
        ConfigError: see above.
    """
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; a file is needed", fix=f"for example {out / 'out.jsonl'}")
    if not out.parent.is_dir():
        raise ConfigError(f"{out} cannot be written: there is no folder {out.parent}", fix="make the folder first")
    for name in (name for spec in inputs for name in (spec, spec.rpartition("#")[0]) if name and out.exists()):
        given = Path(name)
        inside = given.exists() and (out.samefile(given) or out.resolve().is_relative_to(given.resolve()))
        if inside or _is_matched(out, name):
            raise ConfigError(f"{out} is read from, so it is not written to", fix="give another file")


def _is_matched(out: Path, name: str) -> bool:
    try:
        return is_glob(name) and any(out.samefile(file) for file, _ in find_files(name)[0])
    except ConfigError:  # of a name that matches nothing, said when it is read
        return False


def in_order(sources: Sequence[Loaded]) -> Iterator[Conversation | Quarantined]:
    """Yield the rows of sources as they stand in their files, the unreadable ones in their places."""
    for loaded in sources:
        items: list[Conversation | Quarantined] = [*loaded.conversations, *loaded.quarantined]
        yield from sorted(items, key=lambda item: (item.source.file, item.source.line))


def stderr() -> Console:
    """Return the console for what a person reads beside the result."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    # A log file has no width of its own; tables and paths stay on one line there.
    return console if console.is_terminal else Console(stderr=True, highlight=False, width=160)

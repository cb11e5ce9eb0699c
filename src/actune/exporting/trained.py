"""What is exported: a base model, an adapter on it if there is one, and how its text was written."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actune.config.run_folder import FILE, RunInfo, read_run
from actune.core import react
from actune.core.errors import ActuneError, ConfigError
from actune.core.types import Conversation, Style
from actune.core.values import read_variables
from actune.data.reading.hub import is_hub_id, refuse_no_model, resolve_model
from actune.data.reading.sources import read_conversations, split_count
from actune.exporting.origin import Origin, find_origin
from actune.render.chat import ChatRenderer, load_renderer

KEY = "response_template"
_LOOKED_AT = 256  # rows of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model: the folder of its weights, the adapter on them if any, and how its text was written.

    `renderer` reads tokenizer and template as a stranger does, `writer` with the settings of the run. `decided` says that
    the tokenizer comes from a trained result, whose parser of calls is settled.
    """

    base: Path
    adapter: Path | None
    run: RunInfo | None
    renderer: ChatRenderer
    writer: ChatRenderer
    decided: bool
    origin: Origin

    @property
    def style(self) -> Style | None:
        """The dialect that rows with tools were trained in, None where it is unknown."""
        return self.run.style if self.run is not None else None

    @property
    def dialect(self) -> Style:
        """The dialect of calls: of the run, else what the stored parser reads, else the chat template's."""
        if self.style is not None:
            return self.style
        spec = self.renderer.tokenizer.config.get(KEY)
        reads_react = isinstance(spec, dict) and react.STOP_WORD in json.dumps(spec, ensure_ascii=False)
        return "react" if reads_react else "chat"

    @property
    def calls(self) -> bool:
        """Whether it can be known how it calls tools: it was trained on calls, or its chat template shows them."""
        return self.style is not None or self.dialect != "chat" or self.renderer.profile.arguments is not None

    @property
    def longest(self) -> int | None:
        """Tokens of the longest row that the run took, None where it is unknown or without a limit."""
        given = int(self.run.settings["data"]["max_length"]) if self.run is not None else 0
        return given if given > 0 else None


def find_trained(model: str, adapter: str | None, *, adapter_needed: bool) -> Trained:
    """Return what `--model` and `--adapter` name.

    Raises:
        ConfigError: a run without a result, no adapter where one is needed, or a folder that is none.
    """
    run = read_run(Path(model))
    folder = Path(adapter) if adapter is not None else (run.adapter if run else None)
    full = run.folder / "model" if run is not None else None
    if folder is None and run is not None and not (full is not None and full.is_dir()):
        raise ConfigError(
            f"the run {model} has no result yet: neither adapter/ nor model/ is there",
            fix="finish it with --resume auto, or name a checkpoint's adapter with --adapter",
        )
    if folder is None and run is None and adapter_needed:
        raise ConfigError(f"{model} is no run with an adapter", fix="name the adapter folder with --adapter DIR")
    if folder is not None and not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder} is no adapter: adapter_config.json is missing", fix="name it with --adapter DIR")
    base = run.model_dir if run is not None else resolve_model(model, None)
    origin = find_origin(str(run.settings["model"]["model_id_or_path"]) if run is not None else model, base)
    if folder is None and full is not None:
        base = full
    refuse_no_model(base, weights=True)
    # The run's own tokenizer and template, else those of the base model.
    trained = folder if folder is not None else full
    decided = trained is not None and (trained / "tokenizer.json").is_file()
    place = trained if decided and trained is not None else base
    renderer = load_renderer(place)
    return Trained(
        base=base,
        adapter=folder,
        run=run,
        renderer=renderer,
        writer=_as_trained(place, run) if run is not None else renderer,
        # Older runs stored no parser.
        decided=decided and (run is None or KEY in renderer.tokenizer.config),
        origin=origin,
    )


def read_run_file(run: RunInfo) -> Mapping[str, Any]:
    """Return the whole content of run.json."""
    found = json.loads((run.folder / FILE).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def sample_rows(run: RunInfo | None, count: int = 6) -> list[Conversation]:
    """Return the first rows with a call of the run's own data, where its files are still at hand; no hub is asked."""
    found: list[Conversation] = []
    settings = run.settings["data"] if run is not None else {}
    for spec in settings.get("dataset") or ():
        name, _ = split_count(str(spec))
        if is_hub_id(name) or not Path(name).is_file():
            continue
        try:
            rows = read_conversations(Path(name), dataset=name, format_name=settings.get("format"), shown=name)
            for _, row in itertools.islice(rows, _LOOKED_AT):
                if isinstance(row, Conversation) and any(message.tool_calls for message in row.messages):
                    found.append(row)
                if len(found) == count:
                    return found
        except ActuneError:  # the file is another one by now
            continue
    return found


def _as_trained(folder: Path, run: RunInfo) -> ChatRenderer:
    """Return the renderer with the settings of the run; of today, since agents are used after their training."""
    settings = run.settings.get("render", {})
    return load_renderer(
        folder,
        now=datetime.date.today(),
        history_reasoning=settings.get("history_reasoning") or "as-data",
        raw_control_tokens=bool(settings.get("raw_control_tokens")),
        variables=read_variables(tuple(settings.get("template_variables") or ())),
    )

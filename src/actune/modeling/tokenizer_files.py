"""The tokenizer of what was trained: its files, a parser of its calls for servers, and a check that both hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from actune.core.errors import ActuneError
from actune.core.types import Style
from actune.modeling.response_template import KEY, Found, find_response_template, store_response_template
from actune.modeling.tokenizer_check import check_saved_tokenizer
from actune.render.chat import ChatRenderer
from actune.render.tokenizer import load_templates, save_tokenizer

_SHOWN = 300  # characters of a reason


class TokenizerSaver:
    """Writes the tokenizer into folders of weights; what is found is looked for once and said once."""

    def __init__(
        self, renderer: ChatRenderer, style: Style | None, *, say: Callable[[str], None], decided: bool = False
    ) -> None:
        """Save the tokenizer and template of a renderer, for a model whose rows with tools are in `style`.

        With `decided` the tokenizer is that of a trained result: the spec in it is the right one, or there is none.
        """
        self._renderer = renderer
        self._style: Style | None = style
        self._say = say
        self._decided = decided
        self._found: Found | None = None
        self._checked = False
        self.faulty = False
        """Whether others load a folder as it was written with other ids than were used."""

    def __call__(self, folder: Path) -> None:
        """Write tokenizer and template into an existing folder, after its config.json if it gets one.

        Raises:
            ModelError, OSError: the files cannot be copied.
        """
        tokenizer = self._renderer.tokenizer
        save_tokenizer(tokenizer, self._renderer.templates, folder)
        if not self._decided:
            self._store_template(folder)
        if self._checked:
            return
        self._checked = True
        verdict = check_saved_tokenizer(folder, tokenizer)
        if verdict.fault is not None:
            self.faulty = True
            self._say(
                f"WARNING: the saved tokenizer is not read by others as it was used here: {verdict.fault}. Load it with "
                "transformers.PreTrainedTokenizerFast.from_pretrained, which takes tokenizer.json as it is."
            )
        elif verdict.note is not None:
            self._say(f"Note: the saved tokenizer is read as it was used here, but {verdict.note}.")

    def _store_template(self, folder: Path) -> None:
        keeps = self._keeps_format()
        if self._found is None:
            self._found = find_response_template(self._renderer, self._style)
            self._tell(self._found, kept=keeps and KEY in self._renderer.tokenizer.config)
        store_response_template(folder, self._found, keep=keeps)

    def _keeps_format(self) -> bool:
        """Whether calls are written as the base model's own template writes them."""
        tokenizer = self._renderer.tokenizer
        if self._style in ("react", "react_zh") or tokenizer.folder is None:
            return False
        try:
            return load_templates(tokenizer.folder, tokenizer).tools == self._renderer.templates.tools
        except ActuneError:  # the base model has no template of its own
            return False

    def _tell(self, found: Found, *, kept: bool) -> None:
        if found.spec is not None:
            return
        reason = found.reason or ""
        shown = reason if len(reason) <= _SHOWN else reason[: _SHOWN - 3] + "..."
        what = "the one of the base model is kept" if kept else "servers need a parser of their own for its calls"
        self._say(f"Note: no {KEY} is stored with the tokenizer, {what}: {shown}")

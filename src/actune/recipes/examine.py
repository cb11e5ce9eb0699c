"""Rows one after the other: what is wrong with each, which stand twice, whose prompts stand elsewhere, what can be mended.

Of a row only its digests, its prompt and what was found are kept, so that a data set of any size can be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Source
from actune.data.checks.duplicates import SeenRows
from actune.data.checks.findings import Finding
from actune.data.checks.overlap import (
    Overlap,
    Prompts,
    find_leaks,
    find_overlap,
    join_prompts,
    prompt_grams,
    prompt_keys,
)
from actune.data.checks.repairs import Repair, repair_row
from actune.data.checks.rules import Level, find_problems
from actune.data.reading.files import find_files
from actune.data.reading.sources import Quarantined, read_conversations, split_count
from actune.recipes.writing import in_order, load_rows, stderr
from actune.render.encoder import Encoder, merge_turns

Item = Conversation | Quarantined


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding or an error of a row, with its level."""

    level: Level
    item: Quarantined


@dataclass(frozen=True, slots=True)
class Mended:
    """A row after its repairs, and the first error that it had before; None where it only had warnings."""

    conversation: Conversation
    repairs: tuple[Repair, ...]
    error: Quarantined | None


def iterate_rows(spec: str, format_name: str | None) -> Iterator[Item]:
    """Yield the rows of a dataset as they stand in its files; those that cannot be read in their places.

    Raises:
        ConfigError: the dataset cannot be found or read.
    """
    name, count = split_count(spec)
    if count is not None:  # which rows are drawn depends on how many there are
        yield from in_order([load_rows(spec, format_name)])
        return
    files, notices = find_files(name)
    for notice in notices:
        stderr().print(f"note: {notice}", markup=False)
    for path, shown in files:
        for source, result in read_conversations(path, dataset=name, format_name=format_name, shown=shown):
            yield Quarantined.of(source, result) if isinstance(result, DataError) else result


def check_row(item: Item, encoder: Encoder | None) -> list[Problem]:
    """Return what is wrong with one row by itself."""
    if isinstance(item, Quarantined):
        return [Problem("error", item)]
    found = [_located(item.source, finding) for finding in find_problems(item)]
    return found if encoder is None else [*found, *_loss_problems(item, encoder)]


def _located(source: Source, finding: Finding) -> Problem:
    item = Quarantined(source=source, code=finding.code, message=finding.message, field=finding.field, fix=finding.fix)
    return Problem(finding.level, item)


def _loss_problems(row: Conversation, encoder: Encoder) -> Iterator[Problem]:
    """Yield everything that a row loses under a template; what is allowed is a warning."""
    stopped = False
    try:
        turns, losses = encoder.examine(row)
        for loss in losses:
            place = Quarantined(source=row.source, code=loss.code, message=loss.message, field=loss.field, fix=loss.fix)
            allowed = encoder.allows(loss)
            stopped = stopped or not allowed
            yield Problem("warning" if allowed else "error", place)
        if not stopped:
            merge_turns(encoder.encode_written(row, turns), row.source)
    except (DataError, RenderError) as error:
        yield Problem("error", Quarantined.of(row.source, error))


class Examination:
    """What was found of all rows so far; rows are numbered from 0 in the order in which they came.

    `bad` are the rows with an error. With `fixing`, `left_out` says of rows that no repair covers why, `mended` holds
    the repaired ones, `doubles` those that equal an earlier row once repaired, with the place of that one.
    """

    def __init__(self, *, encoder: Encoder | None, fixing: bool, comparing: bool) -> None:
        """Begin with no rows; prompts are kept only when `comparing`."""
        self.rows = 0
        self.problems: list[Problem] = []
        self.bad: set[int] = set()
        self.left_out: dict[int, Quarantined] = {}
        self.mended: dict[int, Mended] = {}
        self.doubles: dict[int, tuple[Source, str]] = {}
        self._encoder = encoder
        self._fixing = fixing
        self._comparing = comparing
        self._seen = SeenRows()
        self._kept = SeenRows()
        self._prompts: list[tuple[tuple[int, ...], NDArray[np.uint64]]] = []
        self._prompt_rows: list[tuple[int, Source]] = []
        self._compared = 0  # prompts that earlier datasets gave

    def add(self, item: Item) -> None:
        """Check one row."""
        number = self.rows
        self.rows += 1
        found = check_row(item, self._encoder)
        if isinstance(item, Conversation):
            found += [_located(item.source, finding) for finding in self._seen.add(item)]
            if self._comparing:
                self._prompts.append((prompt_keys(item), prompt_grams(item)))
                self._prompt_rows.append((number, item.source))
        self.problems += found
        errors = [problem.item for problem in found if problem.level == "error"]
        if errors:
            self.bad.add(number)
        if self._fixing:
            self._mend(number, item, errors)

    def _mend(self, number: int, item: Item, errors: Sequence[Quarantined]) -> None:
        if isinstance(item, Quarantined):
            self.left_out[number] = item
            return
        conversation, repairs = repair_row(item)
        if repairs and errors:
            rest = [problem.item for problem in check_row(conversation, self._encoder) if problem.level == "error"]
        else:
            rest = list(errors)
        if rest:
            self.left_out[number] = rest[0]
            return
        twin = next((one for one in self._kept.add(conversation) if one.code == "duplicate-row"), None)
        if twin is not None:
            self.doubles[number] = (item.source, twin.message)
        elif repairs:
            self.mended[number] = Mended(conversation, repairs, errors[0] if errors else None)

    def compare(self, held: Prompts, places: Sequence[str]) -> None:
        """Compare the rows added since the last time with held-out prompts, which stand at `places`, and earlier rows."""
        if not self._comparing:
            return
        earlier, fresh = self._prompts[: self._compared], self._prompts[self._compared :]
        first, self._compared = self._compared, len(self._prompts)
        prompts = join_prompts(fresh)
        for leak in find_leaks(prompts, held):
            number, source = self._prompt_rows[first + leak.train_row]
            item = _overlap_item(source, leak, places[leak.held_row], held_out=True)
            self.problems.append(Problem("error", item))
            self.bad.add(number)
            if self._fixing:
                self.left_out.setdefault(number, item)
                self.mended.pop(number, None)
                self.doubles.pop(number, None)
        for overlap in find_overlap(join_prompts(earlier), prompts):
            _, source = self._prompt_rows[first + overlap.held_row]
            place = str(self._prompt_rows[overlap.train_row][1])
            self.problems.append(Problem("warning", _overlap_item(source, overlap, place, held_out=False)))


def _overlap_item(source: Source, overlap: Overlap, place: str, *, held_out: bool) -> Quarantined:
    how = "the same text" if overlap.exact else f"{overlap.share:.0%} of its n-grams"
    if held_out:
        return Quarantined(
            source=source,
            code="eval-overlap",
            field="messages",
            message=f"the held-out prompt at {place} stands in this row ({how})",
            fix="remove the row from the training data",
        )
    return Quarantined(
        source=source,
        code="prompt-overlap",
        field="messages",
        message=f"its prompt stands at {place} too ({how})",
        fix="if the two are to be measured apart, keep the prompt in one of them",
    )

"""Short names of the sources of rows, for metrics such as `loss/<source>`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from actune.core.types import Source


def label_sources(sources: Sequence[Source]) -> list[str]:
    """Return a label for each source: its dataset without folders where that is unambiguous, else as given.

    A source that belongs to no dataset is called by its file.
    """
    names = [source.dataset or source.file for source in sources]
    shorter = {name: PurePath(name).name or name for name in dict.fromkeys(names)}
    count = Counter(shorter.values())
    return [shorter[name] if count[shorter[name]] == 1 else name for name in names]

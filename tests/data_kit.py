"""Choosing and encoding rows as a run does, for tests that need no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actune.config.settings import Settings
from actune.data.choose import Rows, choose_rows
from actune.data.prepare import Prepared, prepare
from actune.data.store.cache import Cache
from actune.data.store.store import EncodingRecipe, RowStore


def open_store(
    settings: Settings, folder: Path, cache: Cache | None = None, processes: int = 1, **options: Any
) -> RowStore:
    writing = EncodingRecipe(
        folder=str(folder),
        options=options,
        max_length=settings.data.max_length,
        truncation=settings.data.truncation_strategy,
    )
    return RowStore(writing, cache or Cache.temporary(), processes=processes)


def choose(settings: Settings, folder: Path, cache: Cache | None = None, processes: int = 1, **options: Any) -> Rows:
    cache = cache or Cache.temporary()
    store = open_store(settings, folder, cache, processes, **options)
    return choose_rows(settings, cache, store, processes=processes)


def prepare_all(
    settings: Settings, folder: Path, cache: Cache | None = None, processes: int = 1, **options: Any
) -> Prepared:
    cache = cache or Cache.temporary()
    store = open_store(settings, folder, cache, processes, **options)
    return prepare(settings, choose_rows(settings, cache, store, processes=processes), store)

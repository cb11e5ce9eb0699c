"""Read flags: `--name value ...` for every setting; every problem is collected."""

from __future__ import annotations

from collections.abc import Sequence

from actune.config.fields import BARE_FLAGS, FLAG_ALIASES, Leaf, index_leaves
from actune.config.given import Given, Problem, read_value
from actune.config.suggest import suggest


def read_flags(tokens: Sequence[str]) -> tuple[list[Given], list[Problem]]:
    """Return the values given by flags and everything that is wrong with them.

    `-` and `_` in names are the same; `--name=value` works; a value may start with one dash (`-1`). A setting of
    several values takes all words up to the next flag; repeated, they add up. Of a repeated single value the last counts.
    """
    reader = _Reader(tokens)
    reader.read()
    return reader.given, reader.problems


def is_flag(token: str) -> bool:
    """Return whether a word of the command line is written as a flag."""
    return token.startswith("--") and len(token) > 2


def _is_value(token: str) -> bool:
    """Return whether a word after a flag is its value; `-seed` is a mistyped flag, `-1` and `-x.jsonl` are values."""
    return not token.startswith("--") and not (token.startswith("-") and _read_name(token) in index_leaves())


def _read_name(token: str) -> str:
    name = token.lstrip("-").partition("=")[0].replace("-", "_")
    return FLAG_ALIASES.get(name, name)


class _Reader:
    """One pass over the words."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        self.at = 0
        self.seen: dict[str, Given] = {}
        self.problems: list[Problem] = []

    @property
    def given(self) -> list[Given]:
        return list(self.seen.values())

    def read(self) -> None:
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            if is_flag(token):
                self._read_flag(token)
            else:
                self._report_stray(token)

    def _read_flag(self, token: str) -> None:
        written, equals, text = token.partition("=")
        name = _read_name(written)
        leaf = index_leaves().get(name)
        words = [text] if equals else self._take(leaf)
        if leaf is None:
            self._report_unknown(written, name)
            return
        if not words:
            bare = "true" if leaf.kind == "switch" else BARE_FLAGS.get(leaf.name)
            if bare is None:
                self._report(written, f"needs a value: {leaf.type_text}", leaf)
                return
            words = [bare]
        self._keep(leaf, written, words)

    def _keep(self, leaf: Leaf, written: str, words: list[str]) -> None:
        try:
            value = read_value(leaf, words)
        except ValueError as error:
            self._report(written, str(error), leaf)
            return
        earlier = self.seen.get(leaf.name)
        # Of a single value the last one counts, as on any command line, so that scripts can append to their flags.
        if earlier is not None and isinstance(value, tuple) and isinstance(earlier.value, tuple):
            value = earlier.value + value
        self.seen[leaf.name] = Given(leaf=leaf, value=value, place=written)

    def _take(self, leaf: Leaf | None) -> list[str]:
        """Take the values of a flag: all words up to the next flag, or one; of an unknown flag all, to stay quiet."""
        several = leaf is None or leaf.several
        start = self.at
        while self.at < len(self.tokens) and _is_value(self.tokens[self.at]):
            self.at += 1
            if not several:
                break
        return self.tokens[start : self.at]

    def _report(self, place: str, message: str, leaf: Leaf) -> None:
        self.problems.append(Problem(place=place, message=message, about=(leaf.name,)))

    def _report_unknown(self, written: str, name: str) -> None:
        closest = suggest(name.rpartition(".")[2], index_leaves())
        message = "no such flag" if closest is None else f"no such flag; did you mean --{closest}?"
        about = () if closest is None else (closest,)
        self.problems.append(Problem(place=written, message=message, about=about))

    def _report_stray(self, token: str) -> None:
        name = _read_name(token)
        if token.startswith("-") and name in index_leaves():
            self._report(token, f"flags start with two dashes: --{name}", index_leaves()[name])
        else:
            message = "unexpected; the recipe file comes first, then --flag value pairs"
            self.problems.append(Problem(place=token, message=message))

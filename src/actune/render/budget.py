"""What one rendering of a chat template may cost.

A template comes with a model from anywhere. Jinja's sandbox keeps it away from Python, not from endless loops and huge
values. Work is counted in units, so the same rendering ends the same way on every machine; processor time of the thread
is the second net, for a template that finds work which costs more than estimated.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import GeneratorType, MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.utils import Namespace

# A unit is a byte of a small value, or about a nanosecond. 1,000 messages of 10 kB need a few million.
WORK = 600_000_000
# Bytes of the large texts that a rendering made and still holds.
HELD_BYTES = 300_000_000
# Seconds of the thread's processor time; a machine that is slow or busy counts no more of it.
CPU_SECONDS = 1.5
# What a long conversation adds: units a character and a pair of messages, and a microsecond each, up to these seconds.
CHARACTER_WORK = 300
PAIR_WORK = 500
LONGEST_SECONDS = 10.0
# Values within values.
VALUE_DEPTH = 900
# Generators that read generators: their release recurses in C, and a long chain ends the process.
CHAIN_DEPTH = 50
INTEGER_BITS = 8192
# Units for a look at a value inside another one.
_PER_VALUE = 200
# Units between two looks at the clock.
_PERIOD = 1_000_000
# Keys that can share a hash on purpose: a table of n of them takes n * n steps.
_FEW_KEYS = 1000

Value = Any
SCALARS = frozenset({int, float, bool, type(None)})
# Below this length a text is counted by its length alone; above it by its bytes, for as long as it lives.
SMALL = 512
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))


class SafeNamespace(Namespace):
    """`namespace(...)`, which takes no names with an underscore in front, as in transformers."""

    def __init__(*args: Value, **kwargs: Value) -> None:  # `namespace(self=...)` is allowed
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Value) -> None:
        _check_name(name)
        attributes_of(self)[name] = value


def _check_name(name: Value) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name with an underscore in front: {name[:80]!r}")


def attributes_of(namespace: Namespace) -> dict[str, Value]:
    """Return what a namespace holds, which its own attributes hide."""
    return object.__getattribute__(namespace, "_Namespace__attrs")


class TooCostlyError(Exception):
    """A template reached a limit; the text names it."""


class Budget:
    """The budget of one rendering. `start` begins a rendering; no two at a time."""

    def __init__(self) -> None:
        self._chains: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self.start()

    def start(self, messages: Sequence[Value] = ()) -> None:
        """Begin with a full budget and nothing held; a long conversation may cost more."""
        self._messages = messages
        self._left = WORK
        self._mark = WORK - _PERIOD
        self._held: list[str] = []
        self._held_bytes = 0
        self._calls = 0
        self._until = time.thread_time() + CPU_SECONDS

    def spend(self, units: int) -> None:
        """Count work before it is done.

        Raises:
            TooCostlyError: when a limit is reached.
        """
        self._left -= units
        if self._left < self._mark:
            self._look()

    def _look(self) -> None:
        late = time.thread_time() > self._until
        if (self._left < 0 or late) and self._messages:
            self._extend()
            late = time.thread_time() > self._until
        if self._left < 0:
            raise TooCostlyError(f"more than {WORK:,} units of work, as in a loop without end")
        if late:
            self._left = -1  # whatever catches this error goes no further
            raise TooCostlyError(f"more than {CPU_SECONDS:g} s of processor time")
        self._mark = self._left - _PERIOD

    def _extend(self) -> None:
        """Add what the conversation itself asks for: some templates look at each character, or from each message at all."""
        messages, self._messages = self._messages, ()
        size, pairs = Budget().weigh(messages), len(messages) ** 2
        self._left += CHARACTER_WORK * size + PAIR_WORK * pairs
        self._until += min(LONGEST_SECONDS, (size + pairs) / 1e6)

    def room(self, length: int, width: int = 4) -> None:
        """Make sure that a text of `length` characters of `width` bytes can be made."""
        if length < SMALL:
            return
        if self._held_bytes + width * length > HELD_BYTES:
            self._sweep()
            if self._held_bytes + width * length > HELD_BYTES:
                raise TooCostlyError(f"more than {HELD_BYTES:,} bytes of text at once")
        self.spend(length >> 4)

    def _sweep(self) -> None:
        """Forget the large texts that nobody but this list refers to."""
        self.spend(len(self._held) * 8)
        unique = {id(text): text for text in self._held}
        self._held.clear()
        while unique:
            text = unique.popitem()[1]
            if sys.getrefcount(text) > 2:  # the name here and the argument
                self._held.append(text)
        self._held_bytes = sum(map(sys.getsizeof, self._held))

    def made(self, value: Value) -> Value:
        """Count a value that was just made, and return it."""
        kind = type(value)
        if kind is str:
            length = len(value)
            if length < SMALL:
                self._left -= 4 * length
            else:
                self._held.append(value)
                self._held_bytes += sys.getsizeof(value)
                self._left -= length >> 4
        elif kind is list or kind is tuple:
            self._left -= 8 * len(value)
        elif kind is dict or kind is set:
            self._left -= 100 * len(value)
        elif kind is int and value.bit_length() > INTEGER_BITS:
            raise TooCostlyError(f"an integer of more than {INTEGER_BITS:,} bits")
        elif isinstance(value, str | bytes):
            self.spend(4 * len(value))
        if self._left < self._mark:
            self._look()
        return value

    def weigh(self, value: Value) -> int:
        """Spend and return the size of a value written out in full, a value that stands in it twice counted twice.

        Raises:
            TooCostlyError: when that is more than what is left, or the value is nested too deeply.
        """
        return self.measure(value)[0]

    def measure(self, value: Value) -> tuple[int, int, int]:
        """Spend the size of a value; return it with the number of values in it and the depth."""
        kind = type(value)
        if kind in SCALARS:
            return 8, 1, 1
        if kind is str:
            self.spend(len(value) >> 4)
            return 8 + len(value), 1, 1
        size = depth = 0
        count = 1
        level = [value]
        while level:
            depth += 1
            below: list[Value] = []
            for item in level:
                kind = type(item)
                if kind is str:
                    size += len(item)
                elif kind not in SCALARS:
                    parts = _parts(item)
                    if isinstance(parts, int):
                        size += parts
                        continue
                    count += len(parts) if kind is dict or kind is list else 3 * len(parts)  # slower to take apart
                    if size + _PER_VALUE * count > self._left:
                        self.spend(size + _PER_VALUE * count)
                    below += parts
            level = below
            if depth > VALUE_DEPTH:
                raise TooCostlyError(f"a value nested more than {VALUE_DEPTH} deep")
        self.spend(size + _PER_VALUE * count)
        return size + 24 * count, count, depth

    def counted(self, items: Iterable[Value], units: int = 20, *, source: Value = None) -> Iterator[Value]:
        """Return a generator over items that counts each; `source` is what a generator reads from, if that is not seen."""
        read = (one for one in (items, source) if isinstance(one, GeneratorType))
        depth = 1 + max((self._chains.get(one, 0) for one in read), default=0)
        if depth > CHAIN_DEPTH:
            raise TooCostlyError(f"more than {CHAIN_DEPTH} filters that read one another")
        self.spend(500)
        generator = self._count(items, units)
        self._chains[generator] = depth
        return generator

    def _count(self, items: Iterable[Value], units: int) -> Iterator[Value]:
        for item in items:
            self.spend(units)
            yield item

    def weighed(self, items: Iterable[Value]) -> Iterator[Value]:
        """Return a generator over items that are going to be keys, which may be chosen to share one hash."""

        def weigh() -> Iterator[Value]:
            for item in items:
                self.weigh(item)
                yield item

        return self.counted(weigh(), 4000, source=items)

    def iterable(self, items: Value) -> Value:
        """Return items as they are after counting them, or a generator that counts where they are not there yet."""
        kind = type(items)
        if kind is LoopContext or not hasattr(kind, "__next__"):
            # A text and a range make their items only now.
            each = 90 if kind is str else 40 if kind is range else 8
            self.spend(each * len(items) if hasattr(kind, "__len__") else 8)
            return items
        return self.counted(items)

    def keys(self, keys: Value) -> None:
        """Count the work of a table with these keys, which may be chosen to share one hash."""
        few = [key for key in keys if type(key) is not str and not (type(key) is int and abs(key) < 1 << 60)]
        if len(few) > _FEW_KEYS:
            self.spend(len(few) ** 2)
        for key in few:
            self.weigh(key)

    def text(self, value: Value) -> str:
        """Return the text of a value as Jinja writes it."""
        if type(value) is str:
            return value
        self.room(3 * self.weigh(value))  # characters that cannot be printed are written with ten
        return self.made(str(value))

    def concat(self, pieces: Iterable[str]) -> str:
        """Return the pieces joined: a macro's text, a block's, the whole."""
        pieces = pieces if type(pieces) is list else list(pieces)
        self.room(sum(map(len, pieces)))
        return self.made("".join(pieces))


def _parts(value: Value) -> list[Value] | int:
    """Return what a value is written out of, or the size of one that has no parts."""
    if isinstance(value, dict | MappingProxyType):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, _VIEWS):
        return list(value)
    if isinstance(value, Namespace):
        return list(attributes_of(value).values())
    if isinstance(value, str | bytes | range):
        return 4 * len(value)
    return 100

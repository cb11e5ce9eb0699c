"""The operations of Jinja under a budget, and the environment that has them.

Templates are rewritten (`actune.render.template`) to call a method of `Guard` for everything whose cost grows with its
operands; it estimates the cost first. Shortcuts for plain values are as strict as Jinja's sandbox: they return items,
never attributes of Python.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from types import BuiltinMethodType, GeneratorType
from typing import Any, NoReturn

from jinja2 import TemplateRuntimeError, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup

from actune.render.bounds import PLAIN_CODECS, TEXT_METHODS, bounded_filters, bounded_tests, percent_fields
from actune.render.budget import INTEGER_BITS, SCALARS, SMALL, Budget, SafeNamespace, TooCostlyError, attributes_of

Value = Any
# Methods of a dict that return what it holds.
_READS = frozenset(("get", "items", "keys", "values", "copy"))
_DICT_NAMES, _TEXT_NAMES = frozenset(dir(dict)), frozenset(dir(str))
_LOOP_FIELDS = frozenset(
    ("index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0", "previtem", "nextitem")
)
# Places in lists are smaller; on these nothing needs to be counted.
_INDEX = 1 << 30
# Calls of macros, recursive loops and blocks within one another.
CALL_DEPTH = 250


class Guard(Budget):
    """The operations of one rendering; no two renderings at a time."""

    escapes = False  # whether the template can escape its output, which makes it longer

    # -- what rewritten templates call

    @pass_context
    def step(self, _context: Context, units: int) -> bool:
        """Count one round of a loop, or a call; return true."""
        self._left -= units
        if self._left < self._mark:
            self._look()
        return True

    @pass_context
    def shown(self, _context: Context, value: Value) -> Value:
        """Return what is written for a value, or the value where the template can escape."""
        kind = type(value)
        if kind in SCALARS or kind is Undefined:
            return value
        if self.escapes:
            size = self.weigh(value)
            self.room(6 * size)
            self.spend(12 * size)  # what Jinja makes of it is not seen here
            return value
        return value if kind is str else self.text(value)

    @pass_context
    def operand(self, _context: Context, value: Value) -> Value:
        """Return a value that is going to be compared."""
        kind = type(value)
        if kind is not str:
            self.weigh(value)
            return self.counted(value) if hasattr(kind, "__next__") and kind is not LoopContext else value
        if len(value) >= SMALL:
            self.spend(len(value) >> 4)
        return value

    @pass_context
    def kept(self, _context: Context, value: Value) -> Value:
        """Return a value that was just made."""
        return self.made(value)

    @pass_context
    def spread(self, _context: Context, value: Value) -> Value:
        """Return what is given to a call as `*values`."""
        return value if isinstance(value, Mapping) else tuple(self.iterable(value))

    @pass_context
    def key(self, _context: Context, value: Value) -> Value:
        """Return a key of a dict."""
        if type(value) is not str:
            self.weigh(value)
        return value

    @pass_context
    def contains(self, _context: Context, left: Value, right: Value) -> bool:
        """Return `left in right`."""
        kind = type(right)
        if type(left) is not str:
            self.weigh(left)
            self.weigh(right)
        elif kind is str:
            if len(right) >= SMALL:
                self.spend(len(right) >> 2)
        elif kind is list or kind is tuple:
            self.spend(len(right) * (8 + (len(left) >> 4)))
        elif kind is not dict:
            self.weigh(right)
        return left in (self.counted(right) if hasattr(kind, "__next__") and kind is not LoopContext else right)

    @pass_context
    def field(self, context: Context, obj: Value, name: str) -> Value:
        """Return `obj.name`; the name is neither internal nor that of a method of dict."""
        kind = type(obj)
        if kind is dict:
            if name in obj:
                return obj[name]
        elif kind is SafeNamespace:
            attributes = attributes_of(obj)
            if name in attributes:
                return attributes[name]
        elif kind is LoopContext and name in _LOOP_FIELDS:
            return getattr(obj, name)
        else:
            return context.environment.getattr(obj, name)
        return context.environment.undefined(obj=obj, name=name)

    @pass_context
    def item(self, context: Context, obj: Value, key: Value) -> Value:
        """Return `obj[key]`."""
        kind = type(key)
        if kind is str:
            holder = type(obj)
            if holder is dict:
                if key in obj:
                    return obj[key]
                if key not in _DICT_NAMES:
                    return context.environment.undefined(obj=obj, name=key)
            elif holder is str and key not in _TEXT_NAMES:
                return context.environment.undefined(obj=obj, name=key)
        elif kind is int:
            if type(obj) is list and -len(obj) <= key < len(obj):
                return obj[key]
        else:
            self.weigh(key)
        return context.environment.getitem(obj, key)

    @pass_context
    def part(self, _context: Context, obj: Value, start: Value, stop: Value, step: Value) -> Value:
        """Return `obj[start:stop:step]`."""
        if isinstance(obj, str | bytes):
            self.room(len(obj))
        value = obj[start:stop:step]
        return value if value is obj else self.made(value)

    @pass_context
    def add(self, _context: Context, *parts: Value) -> Value:
        """Return the sum of parts from left to right."""
        length = 0
        for part in parts:
            if type(part) is not str:
                break
            length += len(part)
        else:
            if length < SMALL:
                self._left -= 4 * length
                return "".join(parts)
            self.room(length)
            return self.made("".join(parts))
        total = parts[0]
        for part in parts[1:]:
            if not (type(total) in SCALARS and type(part) in SCALARS):
                for side in (total, part):
                    if isinstance(side, str):
                        self.room(6 * len(side))
                    elif isinstance(side, list | tuple):
                        self.spend(8 * len(side))
            total = self.made(total + part)
        return total

    @pass_context
    def multiply(self, _context: Context, left: Value, right: Value) -> Value:
        """Return `left * right`."""
        for sequence, times in ((left, right), (right, left)):
            if isinstance(times, int):
                if isinstance(sequence, int):
                    self._bits(sequence.bit_length() + times.bit_length())
                elif hasattr(sequence, "__len__") and times > 0:
                    self.room(len(sequence) * times)
                    self.spend(0 if isinstance(sequence, str) else 8 * len(sequence) * times)
        return self.made(left * right)

    @pass_context
    def power(self, _context: Context, left: Value, right: Value) -> Value:
        """Return `left ** right`."""
        if isinstance(left, int) and isinstance(right, int) and right > 0 and left not in (0, 1, -1):
            self._bits(left.bit_length() * right)
        return self.made(left**right)

    def _bits(self, bits: int) -> None:
        if bits > INTEGER_BITS:
            raise TooCostlyError(f"an integer of more than {INTEGER_BITS:,} bits")

    @pass_context
    def modulo(self, _context: Context, left: Value, right: Value) -> Value:
        """Return `left % right`."""
        if isinstance(left, str | bytes):
            self.room(self.formatted(left if isinstance(left, str) else left.decode("latin-1"), right))
        return self.made(left % right)

    def formatted(self, layout: str, values: Value) -> int:
        """Return what a percent layout can become at most, in characters."""
        widths, fields = percent_fields(layout)
        given = values if isinstance(values, tuple) else (values,)
        numbers = [abs(value) for value in given if isinstance(value, int)]
        stars = sum(width is None for width in widths)
        written = self.weigh(values) * (fields if isinstance(values, Mapping) else 1)
        known = sum(width for width in widths if width is not None)
        return len(layout) + known + stars * max(numbers, default=0) + 400 * fields + 10 * written

    @pass_context
    def subtract(self, _context: Context, left: Value, right: Value) -> Value:
        """Return `left - right`."""
        if type(left) is int and type(right) is int and abs(left) < _INDEX and abs(right) < _INDEX:
            return left - right
        return self._arithmetic(operator.sub, left, right)

    @pass_context
    def divide(self, _context: Context, left: Value, right: Value) -> Value:
        """Return `left / right`."""
        return self._arithmetic(operator.truediv, left, right)

    @pass_context
    def floor_divide(self, _context: Context, left: Value, right: Value) -> Value:
        """Return `left // right`."""
        return self._arithmetic(operator.floordiv, left, right)

    def _arithmetic(self, do: Callable[[Value, Value], Value], left: Value, right: Value) -> Value:
        if type(left) not in SCALARS or type(right) not in SCALARS:
            self.spend(self.weigh(left) * self.weigh(right))  # key views are sets
        return self.made(do(left, right))

    @pass_context
    def join_texts(self, _context: Context, *parts: Value) -> Value:
        """Return what `~` makes of parts where nothing is escaped."""
        return self.concat([self.text(part) for part in parts])

    @pass_context
    def method(self, context: Context, obj: Value, name: str, /, *args: Value, **kwargs: Value) -> Value:
        """Return `obj.name(...)`."""
        if type(obj) is str:
            bounded = TEXT_METHODS.get(name)
            if bounded is not None:
                return bounded(self, obj, *args, **kwargs)
        elif type(obj) is dict and name in _READS:
            if args and type(args[0]) is not str:
                self.weigh(args[0])
            value = getattr(obj, name)(*args, **kwargs)
            return self.made(value) if name == "copy" else value
        return self.call(context, context.environment.getattr(obj, name), *args, **kwargs)

    @pass_context
    def call(self, context: Context, function: Value, /, *args: Value, **kwargs: Value) -> Value:
        """Return `function(...)`."""
        kind = type(function)
        if kind is BuiltinMethodType:
            return self._builtin(function, args, kwargs)
        self.spend(200)
        if self._calls > CALL_DEPTH:
            raise TooCostlyError(f"more than {CALL_DEPTH} calls within one another")
        self._calls += 1
        try:
            if kind is Macro:
                return function(context.eval_ctx, *args, **kwargs)
            environment: Any = context.environment
            if not environment.is_safe_callable(function):
                raise SecurityError("that is not safely callable")
            if kind is not LoopContext:
                for value in (*args, *kwargs.values()):
                    self.weigh(value)
                if isinstance(getattr(function, "__self__", None), str):  # the methods of escaped text
                    self._product(function.__self__, args, kwargs)
            return self.made(context.call(function, *args, **kwargs))
        finally:
            self._calls -= 1

    def _builtin(self, function: Value, args: tuple[Value, ...], kwargs: dict[str, Value]) -> Value:
        """Return what a method of a built-in type returns."""
        obj, name = function.__self__, function.__name__
        if type(obj) is str and name in TEXT_METHODS:
            return TEXT_METHODS[name](self, obj, *args, **kwargs)
        if name == "fromkeys" and args:
            args = (list(self.iterable(args[0])), *args[1:])
            self.keys(args[0])
        elif isinstance(obj, list | tuple) and name in ("index", "count", "copy"):
            for value in (obj, *args[:1]):
                self.weigh(value)
        elif isinstance(obj, GeneratorType):
            self.spend(100)
        elif name == "decode" and len(obj) > SMALL and (args or kwargs):
            codec = str(self.text(args[0] if args else kwargs.get("encoding", "utf-8"))).lower()
            self.spend(0 if codec in PLAIN_CODECS else len(obj) ** 2)  # some codecs insert each character
        elif isinstance(obj, str) and name in ("format", "format_map"):
            raise SecurityError("str.format is not safely callable")  # Jinja hands out its own
        elif not (isinstance(obj, dict) and name in _READS):
            self._product(obj, args, kwargs)
        elif args:
            self.weigh(args[0])
        try:
            return self.made(function(*args, **kwargs))
        except StopIteration:
            raise TemplateRuntimeError("the generator has ended") from None

    def _product(self, obj: Value, args: tuple[Value, ...], kwargs: dict[str, Value]) -> None:
        """Spend the product of operand and arguments, which no method of a built-in type exceeds."""
        given = 1
        for value in (*args, *kwargs.values()):
            given += abs(value) if isinstance(value, int) else self.weigh(value)
        self.spend(self.weigh(obj) * given)


_OPERATIONS = (
    "step", "shown", "operand", "kept", "spread", "key", "contains", "field", "item", "part", "add", "multiply",
    "power", "modulo", "subtract", "divide", "floor_divide", "join_texts", "method", "call",
)  # fmt: skip


class _Fields(SandboxedFormatter):
    """`str.format` with the sandbox's look-ups, each field bounded."""

    def format_field(self, value: Value, format_spec: str) -> str:
        guard = self._guard()
        digits = re.findall(r"\d+", format_spec)
        guard.room(6 * guard.weigh(value) + sum(int(number[:12]) for number in digits))
        return guard.made(super().format_field(value, format_spec))

    def _guard(self) -> Guard:
        environment: Any = self._env
        return environment.guard

    def convert_field(self, value: Value, conversion: Value) -> Value:
        guard = self._guard()
        guard.room(10 * guard.weigh(value))
        return super().convert_field(value, conversion)


class _EscapedFields(_Fields, SandboxedEscapeFormatter):
    """The same for text that is escaped already."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up, every operation under one guard; renders one template at a time."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        self.guard = Guard()
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, **options)
        self.filters = bounded_filters(self.guard)
        self.tests = bounded_tests(self.guard, self.filters)
        self.filters |= {f"!{name}": getattr(self.guard, name) for name in _OPERATIONS}
        concat: Any = self.guard.concat
        self.concat = concat

    def getattr(self, obj: Value, attribute: str) -> Value:
        """Return an attribute or item, as the sandbox does; counted."""
        self.guard.spend(20)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Value, argument: Value) -> Value:
        """Return an item or attribute, as the sandbox does; counted."""
        self.guard.spend(20)
        return super().getitem(obj, argument)

    def unsafe_undefined(self, obj: Value, attribute: str) -> Undefined:
        """Refuse an internal attribute at once; another one may be asked whether it is defined.

        Raises:
            SecurityError: when the name begins with two underscores.
        """
        if attribute.startswith("__"):
            raise SecurityError(f"access to attribute {attribute[:80]!r} is unsafe")
        return super().unsafe_undefined(obj, attribute)

    def call(self, context: Context, obj: Value, /, *args: Value, **kwargs: Value) -> Value:
        """Call what a template calls with a block of text."""
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        return self.guard.call(context, obj, *args, **kwargs)

    def call_filter(self, name: Value, *args: Value, **kwargs: Value) -> Value:
        """Apply a filter that a template names by a value."""
        if isinstance(name, str) and name.startswith("!"):
            raise TemplateRuntimeError(f"No filter named {name!r}.")
        return super().call_filter(name, *args, **kwargs)

    def wrap_str_format(self, value: Value) -> Callable[..., str] | None:
        """Return `str.format` or `format_map` of a text, bounded; None for anything else."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        layout, mapped = value.__self__, value.__name__ == "format_map"
        markup = isinstance(layout, Markup)
        formatter = _EscapedFields(self, escape=layout.escape) if markup else _Fields(self)

        def run(*args: Value, **kwargs: Value) -> str:
            if mapped:
                if kwargs or len(args) != 1:
                    raise TypeError("format_map() takes exactly one argument")
                args, kwargs = (), args[0]
            self.guard.weigh(layout)
            return self.guard.made(type(layout)(formatter.vformat(layout, args, kwargs)))

        return run

    def get_template(self, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        """Refuse: a chat template stands alone.

        Raises:
            TemplateRuntimeError: always.
        """
        raise TemplateRuntimeError("it includes, imports or extends another template, which a chat template cannot")

    select_template = get_or_select_template = get_template

"""Chat templates: Jinja text -> rendered text, exactly as transformers renders it, without importing it.

A template comes with a model from outside, so it runs in Jinja's immutable sandbox, and under a budget: the parsed text
is rewritten so that each operation whose cost grows with its operands is one of `actune.render.sandbox.Guard`, and each
body of a loop, macro or block begins by counting a step. What is rendered does not change.
"""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from actune.core.errors import RenderError
from actune.render.budget import INTEGER_BITS, SafeNamespace, TooCostlyError
from actune.render.sandbox import BoundedEnvironment, Guard

Json = Mapping[str, Any]
# Published templates have up to about 20,000 characters and 3,000 words and signs in tags.
_MOST_CHARACTERS = 1_000_000
_MOST_TOKENS = 20_000
_MOST_SHOWN = 400  # characters of an error that a template wrote
_LONGEST_DATE = 1000


class _GenerationTag(jinja2.ext.Extension):
    """Accepts `{% generation %}` blocks, which some templates carry for trainers; their content is kept as it is."""

    tags = {"generation"}  # noqa: RUF012 - the name and kind that Jinja asks for

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for count, token in enumerate(stream):
            if count > _MOST_TOKENS:
                raise TooCostlyError(f"more than {_MOST_TOKENS:,} words and signs in tags, line {token.lineno}")
            yield token


class _Dict:
    """`dict(...)` for templates, without the class attributes of the real one."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        if args and not isinstance(args[0], Mapping):
            args = ([tuple(pair) for pair in self._guard.iterable(args[0])], *args[1:])
            self._guard.keys([pair[0] for pair in args[0] if pair])
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        if args:
            args = (list(self._guard.iterable(args[0])), *args[1:])
            self._guard.keys(args[0])
        return dict.fromkeys(*args, **kwargs)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class _Instance:
    """A compiled template with its own environment and guard, for one rendering at a time."""

    def __init__(self, environment: BoundedEnvironment, code: Any, *, escapes: bool) -> None:  # noqa: ANN401
        self._guard = environment.guard
        self._guard.escapes = escapes
        lipsum: Any = environment.globals["lipsum"]

        def bounded_lipsum(n: int = 5, html: bool = True, min: int = 20, max: int = 100) -> str:
            self._guard.spend(abs(n) * (100 + abs(max)) * 2000)
            return lipsum(n=n, html=html, min=min, max=max)

        make_dict = _Dict(self._guard)

        def namespace(*args: Any, **kwargs: Any) -> SafeNamespace:  # noqa: ANN401
            return SafeNamespace(make_dict(*args, **kwargs))

        more: dict[str, Any] = {
            "raise_exception": _raise_exception,
            "dict": make_dict,
            "namespace": namespace,
            "lipsum": bounded_lipsum,
        }
        environment.globals.update(more)
        self.template = jinja2.Template.from_code(environment, code, environment.globals)

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text; the instance can be used again, whatever happens.

        Raises:
            Exception: anything that a template can raise; `TooCostlyError` at a limit.
        """
        self._guard.start(variables["messages"])
        try:
            return self._guard.concat(self.template.root_render_func(self.template.new_context(dict(variables))))
        finally:
            self._guard.start()


class _Program:
    """A template's code, and the instances of it that are not in use."""

    def __init__(self, text: str) -> None:
        if len(text) > _MOST_CHARACTERS:
            raise TooCostlyError(f"more than {_MOST_CHARACTERS:,} characters")
        self.environment = _environment()
        tree = self.environment.parse(text)
        self._escapes = tree.find(nodes.ScopedEvalContextModifier) is not None
        tree = _Bounder(escapes=self._escapes).visit(tree)
        tree.set_environment(self.environment)
        self._code = self.environment.compile(tree)
        self._free = [_Instance(self.environment, self._code, escapes=self._escapes)]

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text.

        Raises:
            RenderError: code `template-refuses` or `template-too-costly`.
        """
        try:
            instance = self._free.pop()
        except IndexError:  # renderings at the same time
            instance = _Instance(_environment(), self._code, escapes=self._escapes)
        try:
            return instance.render(variables)
        except (TooCostlyError, RecursionError, MemoryError) as error:
            raise _too_costly(error, _line(error, instance.template)) from error
        except Exception as error:
            place = _line(error, instance.template)
            raise RenderError(
                f"the chat template refuses the conversation{place}: {_message(error)}",
                code="template-refuses",
                fix="use --dialect react for rows with tools, or give another template with --chat_template",
            ) from error
        finally:
            self._free.append(instance)


def _environment() -> BoundedEnvironment:
    return BoundedEnvironment(extensions=[_GenerationTag, jinja2.ext.loopcontrols])


def _too_costly(error: Exception, place: str = "") -> RenderError:
    limit = _message(error)
    if isinstance(error, RecursionError):
        limit = "calls or values nested too deeply"
    elif isinstance(error, MemoryError):
        limit = "more memory than there is"
    return RenderError(
        f"the chat template costs too much{place}: {limit}",
        code="template-too-costly",
        fix="use --dialect react for rows with tools, or give another template with --chat_template",
    )


def _message(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def _line(error: Exception, template: jinja2.Template) -> str:
    """Return where in the template an error was raised; what the frames held is let go."""
    line = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__jinja_template__") is template:
            line = template.get_corresponding_lineno(number)
    held: BaseException | None = error
    while held is not None:
        traceback.clear_frames(held.__traceback__)
        held = held.__context__
    return "" if line is None else f", line {line}"


@lru_cache(maxsize=64)
def _compile(text: str) -> _Program:
    return _Program(text)


class ChatTemplate:
    """One Jinja text with the variables that stay the same in a run."""

    def __init__(self, text: str, *, variables: Mapping[str, str], now: datetime.date | None = None) -> None:
        """Compile the template; `variables` are bos_token, eos_token and the like.

        Raises:
            RenderError: code `template-invalid` when the text is no Jinja, `template-too-costly` when it is too large.
        """
        self.text = text
        self._variables = dict(variables)
        self._now = now
        try:
            self._program = _compile(text)
        except TooCostlyError as error:
            raise _too_costly(error) from error
        # Python's compiler has limits of its own, on blocks and brackets within one another and on numbers.
        except (jinja2.TemplateError, SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
            raise RenderError(
                f"the chat template is no valid Jinja: {_message(error)}",
                code="template-invalid",
                fix="check --chat_template",
            ) from error

    def render(self, messages: Sequence[Json], *, tools: Sequence[Json] | None, prompt: bool) -> str:
        """Return the text of messages; with `prompt`, the generation prompt for the next answer follows.

        Raises:
            RenderError: code `template-refuses` when the template raises or fails on these messages,
                `template-too-costly` when it reaches a limit.
        """
        return self._program.render(
            {
                "messages": [dict(message) for message in messages],
                "tools": None if not tools else list(tools),
                "documents": None,
                "add_generation_prompt": prompt,
                "strftime_now": self._strftime,
                **self._variables,
            }
        )

    @property
    def literals(self) -> str:
        """The literal texts of the template, joined by null characters: what it can write by itself."""
        tree = self._program.environment.parse(self.text)
        texts = [node.data for node in tree.find_all(nodes.TemplateData)]
        texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        return "\0".join(texts)

    def _strftime(self, format: str) -> str:
        if len(format) > _LONGEST_DATE:
            raise TooCostlyError(f"a date layout of more than {_LONGEST_DATE:,} characters")
        day = self._now if self._now is not None else datetime.datetime.now().astimezone().date()
        return datetime.datetime.combine(day, datetime.time()).strftime(format)


# -- rewriting

_BINARY = {
    nodes.Mul: "multiply",
    nodes.Pow: "power",
    nodes.Mod: "modulo",
    nodes.Sub: "subtract",
    nodes.Div: "divide",
    nodes.FloorDiv: "floor_divide",
}
# Filters whose result is text, which is written as it is.
_TEXT_FILTERS = frozenset(("trim", "upper", "lower", "capitalize", "title", "tojson", "join", "string", "replace"))
_NESTING = 400
_BODIES = 40  # of loops and macros within one another; Python takes 20 loops
_HUGE_INTEGERS = 100


class _Bounder(NodeTransformer):
    """Puts the operations of `Guard` into a parsed template; `escapes` says that it holds `autoescape` blocks."""

    def __init__(self, *, escapes: bool) -> None:
        self._escapes = escapes
        self._count = 0
        self._depth = 0
        self._huge = 0
        self._bodies = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self._count += 1
        self._depth += 1
        if self._depth > _NESTING:
            raise TooCostlyError(f"more than {_NESTING} expressions or blocks within one another")
        try:
            return super().visit(node, *args, **kwargs)
        finally:
            self._depth -= 1

    def _body(self, node: Any, units: int) -> nodes.Node:  # noqa: ANN401
        before = self._count
        self._bodies += 1
        if self._bodies > _BODIES:
            raise TooCostlyError(f"more than {_BODIES} loops and macros within one another, line {node.lineno}")
        self.generic_visit(node)
        self._bodies -= 1
        step = _use("step", nodes.Const(units + 5 * (self._count - before)), line=node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        if getattr(node, "test", None) is not None:
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._body(node, 50)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._body(node, 200)

    visit_Block = visit_Macro

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        # Jinja insists on a plain call here; it goes through the environment.
        call = node.call
        node.call = nodes.Call(nodes.Const(None), [], [], None, None, lineno=node.lineno)
        self._body(node, 200)
        self.generic_visit(call)
        node.call = call
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, int) and abs(node.value) >= 1 << 60:
            self._huge += 1
            if self._huge > _HUGE_INTEGERS or node.value.bit_length() > INTEGER_BITS:
                raise TooCostlyError("integers that are too large or too many")
        return node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self._count += 40 + 10 * len(node.items)
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = _use("key", pair.key)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self._count += 12 + 2 * len(node.items)
        return self.generic_visit(node)

    visit_Tuple = visit_List

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        parts, left = [], node
        while isinstance(left, nodes.Add):
            parts.append(left.right)
            left = left.left
        self._count += len(parts)
        first, *rest = [self.visit(part) for part in (left, *reversed(parts))]
        return _use("add", first, rest)

    def _binary(self, node: Any) -> nodes.Node:  # noqa: ANN401
        self.generic_visit(node)
        return _use(_BINARY[type(node)], node.left, [node.right])

    visit_Mul = visit_Pow = visit_Mod = visit_Sub = visit_Div = visit_FloorDiv = _binary

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        if not self._escapes:
            return _use("join_texts", node.nodes[0], node.nodes[1:])
        node.nodes = [_use("shown", part) for part in node.nodes]
        return _use("kept", node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if len(node.ops) == 1 and node.ops[0].op in ("in", "notin"):
            found = _use("contains", node.expr, [node.ops[0].expr])
            return found if node.ops[0].op == "in" else nodes.Not(found, lineno=node.lineno)
        if len(node.ops) == 1 and (_is_literal(node.expr) or _is_literal(node.ops[0].expr)):
            return node
        node.expr = _use("operand", node.expr)
        for operand in node.ops:
            operand.expr = _use("operand", operand.expr)
        return node

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:
        self.generic_visit(node)
        if node.attr.startswith("_") or hasattr(dict, node.attr):
            return _use("kept", node)
        return _use("field", node.node, [nodes.Const(node.attr)])

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            bounds = [node.arg.start, node.arg.stop, node.arg.step]
            return _use("part", node.node, [nodes.Const(None) if bound is None else bound for bound in bounds])
        return _use("item", node.node, [node.arg])

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        if isinstance(node.node, nodes.Getattr):
            name = nodes.Const(node.node.attr)
            node.node = node.node.node
            self._spread(node)
            return _use("method", node.node, [name, *node.args], like=node)
        self._spread(node)
        return _use("call", node.node, node.args, like=node)

    def _spread(self, node: Any) -> nodes.Node:  # noqa: ANN401
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _use("spread", node.dyn_args)
        if node.dyn_kwargs is not None:
            node.dyn_kwargs = _use("operand", node.dyn_kwargs)
        return node

    visit_Filter = visit_Test = _spread

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [part if self._is_text(part) else _use("shown", part) for part in node.nodes]
        return node

    def _is_text(self, node: nodes.Expr) -> bool:
        if isinstance(node, nodes.TemplateData | nodes.Const):
            return True
        if self._escapes or not isinstance(node, nodes.Filter):
            return False
        texts = [isinstance(part, nodes.Const) and isinstance(part.value, str) for part in (node.node, *node.args)]
        return node.name in _TEXT_FILTERS or node.name == "!join_texts" or (node.name == "!add" and any(texts))


def _use(
    name: str,
    node: nodes.Expr,
    args: list[nodes.Expr] | None = None,
    *,
    like: nodes.Call | None = None,
    line: int | None = None,
) -> nodes.Filter:
    """Return a call of an operation, with the named and spread arguments of the node `like`."""
    given = ([], None, None) if like is None else (like.kwargs, like.dyn_args, like.dyn_kwargs)
    return nodes.Filter(node, f"!{name}", args or [], *given, lineno=line or node.lineno)


def _is_literal(node: nodes.Expr) -> bool:
    if isinstance(node, nodes.Neg):
        node = node.node
    return isinstance(node, nodes.Const) or (
        isinstance(node, nodes.List | nodes.Tuple) and all(isinstance(item, nodes.Const) for item in node.items)
    )

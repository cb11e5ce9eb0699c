"""Tools from a Python file: a function is a tool, its signature and docstring are what the model is told."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, get_args, get_origin

from actune.agents.tools.calling import on_stop, time_left
from actune.agents.tools.docstrings import Doc, read_docstring
from actune.agents.tools.tool import Tool, ToolFailure
from actune.agents.tools.toolbox import write_problems
from actune.core.errors import ConfigError
from actune.core.types import ToolSpec

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_NUMBERS = itertools.count(1)
# Kept as they are where a property has this name; elsewhere keywords that only repeat the name.
_NAMED = ("properties", "$defs", "patternProperties", "dependentSchemas")
_VALUES = ("default", "const", "enum", "examples")


def load_python(path: Path) -> list[Tool]:
    """Execute a Python file and return its tools: the public functions defined in it, or those that `__all__` names.

    A function may be `async`; it is cancelled at its time limit. Names that begin with `_`, classes and imported functions are no tools. The functions are
    called in threads, several at a time unless the file says `PARALLEL = False`; arguments arrive as keywords, made
    from JSON into what the annotations say. The file's folder is added to the end of `sys.path`.

    Raises:
        ConfigError: the file cannot be executed, has no tools, or a function cannot be described; names file and line.
    """
    module = execute_file(path)
    parallel = bool(getattr(module, "PARALLEL", True))
    tools = [_make_tool(name, function, path, parallel) for name, function in _find_functions(module, path)]
    if not tools:
        raise ConfigError(f"{path} defines no public function", fix="write def name(...): with annotations, docstring")
    return tools


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads the source itself each time: no compiled copy beside the user's file, none that is out of date."""

    def path_stats(self, path: Any) -> Mapping[str, Any]:  # noqa: ANN401 - as in the base class
        raise OSError(f"{path}: no compiled copy is wanted")


def execute_file(path: Path) -> types.ModuleType:
    """Execute a Python file of the user and return it as a module, which is none of those that can be imported.

    Raises:
        ConfigError: the file cannot be executed; names file and line.
    """
    name = f"actune_tools_{next(_NUMBERS)}_{path.stem}"
    loader = _Loader(name, str(path.absolute()))
    spec = importlib.util.spec_from_file_location(name, path.absolute(), loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.absolute().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = module  # annotations are looked up there
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the file prints is not our result
            loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        raise ConfigError(f"{error.filename}:{error.lineno}: {error.msg}", fix="correct the file") from error
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        where = _find_line(error, path)
        raise ConfigError(f"{where}: {type(error).__name__}: {error}", fix="correct the file") from error
    return module


def _find_line(error: BaseException, path: Path) -> str:
    """Return the last line of the file itself that was being executed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.absolute())]
    return f"{path}:{frames[-1].lineno}" if frames else str(path)


def _find_functions(module: types.ModuleType, path: Path) -> Iterator[tuple[str, Callable[..., Any]]]:
    exported = getattr(module, "__all__", None)
    if exported is None:
        for name, value in vars(module).items():
            if not name.startswith("_") and _is_function(value) and value.__module__ == module.__name__:
                yield name, value
        return
    if not isinstance(exported, (list, tuple)) or not all(isinstance(name, str) for name in exported):
        raise ConfigError(f"{path}: __all__ is no list of names", fix="correct __all__")
    for name in exported:
        if not hasattr(module, name):
            raise ConfigError(f"{path}: __all__ names {name!r}, which is not there", fix="correct __all__")
        value = getattr(module, name)
        if _is_function(value):
            yield name, value


def _is_function(value: object) -> bool:
    """A function, also one that a decorator such as `functools.cache` has wrapped."""
    return inspect.isroutine(value) or (callable(value) and hasattr(value, "__wrapped__"))


def _make_tool(name: str, function: Callable[..., Any], path: Path, parallel: bool) -> Tool:
    code = getattr(inspect.unwrap(function), "__code__", None)
    where = f"{path}:{code.co_firstlineno if code is not None else 1}: {name}"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"{where} gives its result in pieces (yield)", fix="return one value")
    try:
        doc = read_docstring(inspect.getdoc(function) or "")
    except ValueError as error:
        raise ConfigError(f"{where}: the docstring cannot be read: {error}", fix="correct it") from error
    adapter, schema = _read_signature(function, doc, where)
    spec = ToolSpec(name=name, description=doc.description, parameters=schema)
    return Tool(spec=spec, call=_Caller(name, function, adapter, tuple(schema["properties"])), parallel=parallel)


class _Caller:
    """Calls a function with the arguments of a call."""

    def __init__(
        self, name: str, function: Callable[..., Any], adapter: TypeAdapter[Any], parameters: tuple[str, ...]
    ) -> None:
        self._name = name
        self._function = function
        self._adapter = adapter
        self._parameters = parameters

    def __call__(self, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever the function returns
        from pydantic import ValidationError

        try:
            values = self._adapter.validate_python(arguments)
        except ValidationError as error:
            return ToolFailure("arguments-invalid", write_problems(self._name, self._explain(error)))
        result = self._function(**values)
        return asyncio.run(_await(result, time_left())) if inspect.isawaitable(result) else result

    def _explain(self, error: Any) -> list[str]:  # noqa: ANN401 - pydantic is imported late
        problems = []
        for entry in error.errors(include_url=False, include_input=False):
            place = ".".join(str(part) for part in entry["loc"])
            if entry["type"] == "extra_forbidden" and len(entry["loc"]) == 1:
                problems.append(f"{place}: no such parameter; there are: {', '.join(self._parameters) or 'none'}")
            else:
                problems.append(f"{place}: {entry['msg']}")
        return problems[:5]


async def _await(result: Any, seconds: float | None) -> Any:  # noqa: ANN401 - whatever the function returns
    """Await a result for so long; then what it does is cancelled, in its own thread."""
    limit = asyncio.timeout(seconds)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    on_stop(lambda: None if loop.is_closed() else loop.call_soon_threadsafe(task.cancel))
    try:
        async with limit:
            return await result
    except TimeoutError:
        if not limit.expired():
            raise  # the function's own
        return ToolFailure("tool-timeout", "no answer in time")


# --- the signature as JSON Schema -----------------------------------------------------------------------------------


def _read_signature(function: Callable[..., Any], doc: Doc, where: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError
    from pydantic_core import PydanticUndefined, to_jsonable_python
    from typing_extensions import TypedDict  # pydantic takes no other one before Python 3.12

    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except Exception as error:
        raise ConfigError(f"{where}: the annotations cannot be read: {error}", fix="correct them") from error
    optional: Any = NotRequired  # types are made from values here, which a type checker does not follow
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        _check_parameter(name, parameter, hints, where)
        kind = _describe_type(hints[name], doc.parameters.get(name))
        fields[name] = kind if parameter.default is parameter.empty else optional[kind]
    unknown = [name for name in doc.parameters if name not in fields]
    if unknown:
        raise ConfigError(
            f"{where}: the docstring describes {', '.join(unknown)}, which the signature does not have",
            fix="correct the name in the docstring or in the signature",
        )
    try:
        record: Any = TypedDict("Arguments", fields)  # pyrefly: ignore[not-callable]
        record.__pydantic_config__ = {"extra": "forbid", "arbitrary_types_allowed": False}
        adapter: TypeAdapter[Any] = TypeAdapter(record)
        written = _inline(_strip(adapter.json_schema()))
    except (PydanticUserError, TypeError, NameError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(f"{where}: a parameter cannot be given as JSON: {reason}", fix="use another type") from error
    schema: dict[str, Any] = {"type": "object", "properties": written.get("properties", {})}
    for name, parameter in signature.parameters.items():
        if parameter.default is parameter.empty:
            continue
        try:
            default = to_jsonable_python(parameter.default)
        except ValueError:  # a default that JSON does not know still stands, it is only not shown
            default = PydanticUndefined
        if default is not PydanticUndefined:
            schema["properties"][name]["default"] = default
    kept = {key: written[key] for key in ("required", "$defs") if written.get(key)}
    return adapter, schema | kept


def _check_parameter(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any], where: str) -> None:
    from pydantic.fields import FieldInfo

    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise ConfigError(f"{where}: {parameter} cannot be described", fix="name every parameter")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ConfigError(f"{where}: {name} cannot be given by name", fix="leave out the / in the signature")
    if name not in hints:
        raise ConfigError(
            f"{where}: {name} has no annotation, and the model has to be told what to give",
            fix=f"write {name}: str, or {name}: Any where anything goes",
        )
    if isinstance(parameter.default, FieldInfo):
        raise ConfigError(f"{where}: {name} = Field(...)", fix=f"write {name}: Annotated[type, Field(...)] = default")


def _describe_type(hint: Any, described: str | None) -> Any:  # noqa: ANN401 - any type
    """Return a type with its description: a text in Annotated, else what the docstring says."""
    from pydantic import Field
    from pydantic.fields import FieldInfo

    if get_origin(hint) is Annotated:
        base, *notes = get_args(hint)
        texts = [note for note in notes if isinstance(note, str)]
        if any(isinstance(note, FieldInfo) and note.description is not None for note in notes):
            described = None
        rest = tuple(note for note in notes if not isinstance(note, str))
        hint = Annotated[(base, *rest)] if rest else base
        described = " ".join(texts) or described
    return Annotated[hint, Field(description=described)] if described else hint


def _strip(schema: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Leave out the titles that pydantic makes of names."""
    if isinstance(schema, list):
        return [_strip(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    stripped: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _VALUES:
            stripped[key] = value
        elif key in _NAMED:
            stripped[key] = {name: _strip(item) for name, item in value.items()}
        elif key != "title":
            stripped[key] = _strip(value)
    return stripped


def _inline(schema: dict[str, Any]) -> dict[str, Any]:
    """Put definitions where they are used, since a list of parameters has no place for them; not those of themselves."""
    definitions = schema.get("$defs", {})

    def expand(value: Any, inside: tuple[str, ...]) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, list):
            return [expand(item, inside) for item in value]
        if not isinstance(value, dict):
            return value
        name = str(value.get("$ref", "")).removeprefix("#/$defs/")
        if name in definitions:
            if name in inside:
                raise RecursionError(name)
            rest = {key: item for key, item in value.items() if key != "$ref"}
            return expand(definitions[name], (*inside, name)) | expand(rest, inside)
        return {key: item if key in _VALUES else expand(item, inside) for key, item in value.items()}

    try:
        return expand({key: value for key, value in schema.items() if key != "$defs"}, ())
    except RecursionError:
        return schema

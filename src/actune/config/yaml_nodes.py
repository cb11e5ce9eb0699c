"""Read a recipe: YAML nodes, which know their line, to values for settings; every problem is collected."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml
from yaml.reader import ReaderError

from actune.config.fields import Leaf, index_leaves, list_groups
from actune.config.given import Given, Problem, Value, read_value
from actune.config.suggest import suggest

_BOOL = "tag:yaml.org,2002:bool"
_NULL = "tag:yaml.org,2002:null"
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}


def read_recipe(path: Path) -> tuple[list[Given], list[Problem]]:
    """Return the values in a recipe file and everything that is wrong with it.

    Only `yaml.SafeLoader` composes the nodes; values are converted by the type of the setting, not by YAML's guess.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return [], [_refuse(str(path), "the recipe file does not exist")]
    except UnicodeDecodeError as error:
        return [], [_refuse(str(path), f"is no UTF-8 text (byte {error.start})")]
    except OSError as error:
        return [], [_refuse(str(path), f"cannot be read: {error.strerror}")]
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return [], [_explain_syntax(path, text, error)]
    except RecursionError:
        return [], [_refuse(str(path), "is nested too deeply")]
    reader = _Reader(path)
    if root is not None:
        reader.read_root(root)
    return reader.given, reader.problems


class _Reader:
    """One pass over the nodes of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.given: list[Given] = []
        self.problems: list[Problem] = []

    def read_root(self, root: yaml.Node) -> None:
        if isinstance(root, yaml.ScalarNode) and root.tag == _NULL:
            return
        if not isinstance(root, yaml.MappingNode):
            message = "a recipe is a mapping of groups: " + ", ".join(list_groups())
            self._report(root, "", message, about=index_leaves())
            return
        for name, key, value in self._list_pairs(root, ""):
            if name in list_groups():
                self._read_group(name, value)
            else:
                inside = [item.value for item, _ in value.value] if isinstance(value, yaml.MappingNode) else []
                message, about = _explain_unknown_group(name)
                self._report(key, name, message, about=(*about, *(item for item in inside if isinstance(item, str))))

    def _read_group(self, group: str, node: yaml.Node) -> None:
        if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
            return  # `data:` with every line below it commented out
        if not isinstance(node, yaml.MappingNode):
            names = _list_names(group)
            self._report(node, group, f"is a group; write settings below it, as {names[0]}: ...", about=names)
            return
        for name, key, value in self._list_pairs(node, group):
            leaf = index_leaves().get(name)
            if leaf is None or leaf.group != group:
                message, about = _explain_unknown_key(group, name)
                self._report(key, f"{group}.{name}", message, about=about)
            else:
                self._read_leaf(leaf, value)

    def _list_pairs(self, node: yaml.MappingNode, prefix: str) -> list[tuple[str, yaml.Node, yaml.Node]]:
        """Return (name, key node, value node); keys that are no plain names or are repeated are reported."""
        first: dict[str, int] = {}
        pairs: list[tuple[str, yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report(key, prefix, "a key must be the name of a setting")
                continue
            name = key.value
            path = f"{prefix}.{name}" if prefix else name
            if name == "<<":
                message = "merging (<<) is not supported in recipes; write the settings out"
                self._report(key, path, message, about=_list_names(prefix) or tuple(index_leaves()))
            elif name in first:
                self._report(key, path, f"is given twice; the first is in line {first[name]}", about=(name,))
            else:
                first[name] = key.start_mark.line + 1
                pairs.append((name, key, value))
        return pairs

    def _read_leaf(self, leaf: Leaf, node: yaml.Node) -> None:
        try:
            value = self._read_node(leaf, node)
        except ValueError as error:
            self._report(node, leaf.path, str(error), about=(leaf.name,))
            return
        line = node.start_mark.line + 1
        self.given.append(Given(leaf=leaf, value=value, place=f"{self.path}:{line}", line=line))

    def _read_node(self, leaf: Leaf, node: yaml.Node) -> Value:
        if isinstance(node, yaml.MappingNode):
            if leaf.kind != "pairs":
                raise ValueError(f"takes {leaf.type_text}, not a mapping")
            pairs = self._list_pairs(node, leaf.path)
            return read_value(leaf, [f"{name}={_read_scalar(leaf, value)}" for name, _, value in pairs])
        if isinstance(node, yaml.SequenceNode):
            if not leaf.several:
                raise ValueError(f"takes one value ({leaf.type_text}), not a list")
            return read_value(leaf, [_read_scalar(leaf, item) for item in node.value])
        text = _read_scalar(leaf, node)
        return read_value(leaf, [text])

    def _report(self, node: yaml.Node, path: str, message: str, *, about: Iterable[str] = ()) -> None:
        line = node.start_mark.line + 1
        problem = Problem(place=f"{self.path}:{line}", path=path, message=message, about=tuple(about), line=line)
        self.problems.append(problem)


def _read_scalar(leaf: Leaf, node: yaml.Node) -> str:
    """Return the text of a scalar as written; texts that YAML would read as something else are refused."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"takes {leaf.type_text}, not a list or mapping inside a list")
    if node.tag not in _PLAIN:
        raise ValueError(f"YAML tags are not supported: {node.tag}")
    if node.tag == _NULL:
        if leaf.nullable:
            return "null"
        raise ValueError("has no value; write one or leave the line out")
    if node.tag == _BOOL:
        if leaf.kind in ("text", "texts"):
            raise ValueError(
                f"is text, but YAML reads {node.value} as true or false; write it in quotes: '{node.value}'"
            )
        if leaf.kind == "pairs" or (leaf.kind == "choice" and "true" in leaf.choices):
            return "true" if node.value.lower() in ("true", "yes", "on") else "false"
    return node.value


def _explain_unknown_group(name: str) -> tuple[str, tuple[str, ...]]:
    """Return what to say, and the settings that were probably meant."""
    leaf = index_leaves().get(name)
    if leaf is not None:
        return f"belongs in the group {leaf.group}: {leaf.path}", (name,)
    groups = list_groups()
    closest = suggest(name, groups)
    if closest is not None:
        return f"no such group; did you mean {closest}?", ()
    setting = suggest(name, index_leaves())
    if setting is not None:
        return f"no such group; did you mean {index_leaves()[setting].path}?", (setting,)
    return f"no such group; the groups are {', '.join(groups)}", ()


def _explain_unknown_key(group: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Return what to say, and the settings that were probably meant."""
    leaves = index_leaves()
    if name in leaves:
        return f"belongs in the group {leaves[name].group}: {leaves[name].path}", (name,)
    closest = suggest(name, _list_names(group))
    if closest is not None:
        return f"no such setting; did you mean {closest}?", (closest,)
    closest = suggest(name, leaves)
    if closest is not None:
        return f"no such setting; did you mean {leaves[closest].path}?", (closest,)
    return f"no such setting; {group} has {', '.join(_list_names(group))}", ()


def _list_names(group: str) -> tuple[str, ...]:
    return tuple(leaf.name for leaf in index_leaves().values() if leaf.group == group)


def _explain_syntax(path: Path, text: str, error: yaml.YAMLError) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return _refuse(f"{path}:{mark.line + 1}", f"no valid YAML: {error.problem} (column {mark.column + 1})")
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return _refuse(f"{path}:{line}", "no valid YAML: a control character in the text")
    return _refuse(str(path), f"no valid YAML: {error}")


def _refuse(place: str, message: str) -> Problem:
    """Return a problem that leaves every setting unknown."""
    return Problem(place=place, message=message, about=tuple(index_leaves()))

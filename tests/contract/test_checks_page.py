"""docs/checks.md lists every code that the source can report, and no other."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+")
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| (\S+) \| (.*) \|$", re.MULTILINE)


def texts(node: ast.expr, scope: ast.AST) -> set[str]:
    """Return the codes that an expression can be; `*` stands for the computed part of one."""
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) and CODE.fullmatch(node.value) else set()
    if isinstance(node, ast.IfExp):
        return texts(node.body, scope) | texts(node.orelse, scope)
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
        return {text} if CODE.fullmatch(text.replace("*", "x")) else set()
    if isinstance(node, ast.Name):  # a variable: whatever is assigned to it in the same function
        found = [item.value for item in ast.walk(scope) if isinstance(item, ast.Assign) and _names(item, node.id)]
        return {code for value in found for part in ast.walk(value) for code in _constants(part)}
    return set()


def _names(assigned: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in assigned.targets)


def _constants(node: ast.AST) -> set[str]:
    good = isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value)
    return {node.value} if good else set()


def codes_of(source: str) -> set[str]:
    """Return the codes in a module: `code=...`, and texts that look like one given to a helper `..._fault`."""
    found: set[str] = set()
    tree = ast.parse(source)
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] or [tree]
    for scope in scopes:
        for call in (node for node in ast.walk(scope) if isinstance(node, ast.Call)):
            for keyword in call.keywords:
                found |= texts(keyword.value, scope) if keyword.arg == "code" else set()
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if name.endswith(("fault", "_leave_out")):
                found |= {code for argument in call.args for code in texts(argument, scope)}
    return found


def documented() -> list[str]:
    return [match.group(1) for match in ROW.finditer((ROOT / "docs" / "checks.md").read_text(encoding="utf-8"))]


def known() -> set[str]:
    files = sorted((ROOT / "src").rglob("*.py"))
    return {code for path in files for code in codes_of(path.read_text(encoding="utf-8"))}


def matches(code: str, pattern: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[a-z]+"), code) is not None


def test_the_collector_sees_every_way_a_code_is_written():
    source = """
def f(x):
    kind = {"a": "in-dict"}[x]
    yield Loss(code=kind)
    raise DataError("no", code="as-is" if x else "as-else") from _fault("text", "to-helper", x)
def g(y):
    return Loss(code=f"{y}-lost")
"""
    assert codes_of(source) == {"in-dict", "as-is", "as-else", "to-helper", "*-lost"}


def test_every_code_is_documented():
    page = documented()
    missing = [code for code in sorted(known()) if not any(matches(listed, code) for listed in page)]
    assert missing == []


def test_no_other_code_is_documented():
    codes = known()
    assert [listed for listed in documented() if not any(matches(listed, code) for code in codes)] == []


def test_every_row_is_complete_and_stands_once():
    text = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    page = documented()
    assert len(page) > 60
    assert len(page) == len(set(page)) == len(re.findall(r"^\| `", text, flags=re.MULTILINE))
    for match in ROW.finditer(text):
        cells = re.split(r"(?<!\\)\|", match.group(3))
        assert len(cells) == 3, match.group(1)
        assert match.group(2) in ("error", "warning")
        assert cells[0].strip()
        assert cells[2].strip()


def test_linked_from_the_readme_and_the_guides():
    for page in ("README.md", "README.zh.md", "docs/guide.md", "docs/guide.zh.md"):
        assert "checks.md" in (ROOT / page).read_text(encoding="utf-8"), page

"""Damaged files: every row is counted once (written, left out or refused), and nothing fails in another way than it says."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actune.cli.main import main
from actune.core.api_list import write_system
from actune.core.types import ToolSpec

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "天气", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
SYSTEM = write_system("", [ToolSpec(name="weather", parameters=PARAMETERS)])
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "杭州", "n": 1.10}}}


def turns(key: str, role: str, value: str, *said: tuple[str, object]) -> dict:
    return {key: [{role: who, value: what} for who, what in said]}


def rows_of(number: int) -> dict[str, dict]:
    """Return a row of every format."""
    ask, answer = f"问题 {number}\n?", f"It is sunny. \u2028 {number}"
    speech = json.dumps({"name": "weather", "arguments": {"city": "x"}})
    native = [{"role": "user", "content": ask}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    native += [{"role": "tool", "tool_call_id": "a", "content": "sunny"}, {"role": "assistant", "content": answer}]
    use = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "x"}}
    react = f"Thought: hm\nAction: weather\nAction Input: {{}}\nObservation: sunny\nFinal Answer: {answer}"
    listed = f"You are.\n\nSpecifically, you have access to the following APIs: {[FUNCTION]}"
    step = '\nThought: \nAction: weather\nAction Input: {"city": "x"}'
    chat = ("from", "value")
    return {
        "openai": {"messages": native, "tools": TOOLS, "id": number},
        "anthropic": {
            "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": [use]}],
            "tools": [{"name": "weather", "input_schema": PARAMETERS}],
        },
        "swift": turns("messages", "role", "content", ("user", ask), ("tool_call", speech), ("tool_response", answer)),
        "sharegpt": turns("conversations", *chat, ("human", ask), ("function_call", speech), ("observation", answer)),
        "toolbench": turns("conversations", *chat, ("system", listed), ("user", ask), ("assistant", step), ("function", "")),
        "ms-agent": turns("conversations", *chat, ("system", SYSTEM), ("user", ask), ("assistant", react)),
        "query-response": {"query": ask, "response": answer, "history": [["a", "b"]]},
        "alpaca": {"instruction": ask, "input": "", "output": "Action: search[x]\nObservation: y\nAction: finish[z]"},
        "text": {"text": answer},
    }  # fmt: skip


ROWS = {name: [rows_of(number)[name] for number in range(5)] for name in rows_of(0)}
NESTED = ("messages", "conversations", "tools", "history")


def write_plain(kind: str, rows: list[dict]) -> bytes:
    if kind == "json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    if kind == "txt":
        return "\n".join(str(next(iter(row.values()))).replace("\n", " ") for row in rows).encode()
    cells = [
        {key: json.dumps(value) if key in NESTED else value for key, value in row.items() if value is not None}
        for row in rows
    ]
    if kind == "csv":
        sheet = io.StringIO()
        writer = csv.DictWriter(sheet, list(rows[0]))
        writer.writeheader()
        writer.writerows(cells)
        return sheet.getvalue().encode()
    if kind == "parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(cells), out)
        return out.getvalue()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def pack(raw: bytes, packed: str) -> bytes:
    if packed == ".zst":
        return pa.compress(raw, codec="zstd", asbytes=True)
    return gzip.compress(raw, mtime=0) if packed else raw


def unpack(raw: bytes, packed: str) -> bytes:
    return pa.CompressedInputStream(io.BytesIO(raw), "zstd").read() if packed == ".zst" else gzip.decompress(raw)


# --- damage -----------------------------------------------------------------------------------------------------------

Damage = Callable[[bytes], bytes]


def truncate(share: float) -> Damage:
    return lambda raw: raw[: int(len(raw) * share)]


def flip(places: list[float], value: int) -> Damage:
    def damage(raw: bytes) -> bytes:
        changed = bytearray(raw)
        for place in places:
            if changed:
                changed[int(place * len(changed)) % len(changed)] ^= value
        return bytes(changed)

    return damage


def insert(place: float, junk: bytes) -> Damage:
    return lambda raw: raw[: int(place * len(raw))] + junk + raw[int(place * len(raw)) :]


def recode(encoding: str) -> Damage:
    return lambda raw: raw.decode("utf-8", "replace").encode(encoding, "replace")


def repeat_keys(count: int) -> Damage:
    return lambda raw: raw.replace(b'{"', b'{"x": 1, "x": 2, "', count)


share = st.floats(0, 1, exclude_max=True)
JUNK = [
    b"\x00\x01\xff\xfe" * 20,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xef\xbb\xbf",
    b"\n\n \t\r\n",
    b"NaN",
    b"\x00",
    b'"',
    b"\n{}\n",
    b",",
    b"\r",
]
damages = st.one_of(
    st.builds(truncate, share),
    st.builds(flip, st.lists(share, min_size=1, max_size=20), st.integers(1, 255)),
    st.builds(insert, share, st.sampled_from(JUNK) | st.binary(min_size=1, max_size=40)),
    st.builds(recode, st.sampled_from(["gb18030", "utf-16", "utf-16-le", "latin-1", "utf-8-sig", "utf-7"])),
    st.builds(repeat_keys, st.integers(1, 4)),
    st.sampled_from([lambda raw: raw, lambda raw: b"", lambda raw: b" \n\t\r\n" * 9, lambda raw: b"\x00" * len(raw)]),
)


# --- the commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did: exit code, and the rows that it wrote and left out."""

    code: int
    written: int = 0
    left_out: int = 0
    text: str = ""


def run(*words: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    assert code in (0, 1, 2), err.getvalue()
    assert "bug in actune" not in err.getvalue(), err.getvalue()
    assert "Traceback" not in err.getvalue()
    assert (code == 2) == err.getvalue().startswith("error: "), err.getvalue()
    return code, out.getvalue(), err.getvalue()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def check(data: Path) -> tuple[Outcome, list[dict]]:
    code, out, err = run("check", data, "--json")
    if code == 2:
        return Outcome(code, text=err), []
    report = json.loads(out)
    assert (code == 1) == (report["ok"] < report["rows"]) == any(p["level"] == "error" for p in report["problems"])
    return Outcome(code, report["ok"], report["rows"] - report["ok"]), report["problems"]


def convert(data: Path) -> Outcome:
    out = data.with_name("out.jsonl")
    code, _, err = run("convert", data, out, "--to", "openai")
    left = lines(data.with_name("out.jsonl.quarantine.jsonl"))
    assert out.exists() == (code != 2)
    assert (code == 1) == bool(left)
    assert all(item["file"] == str(data) and item["line"] >= 1 and item["code"] and item["reason"] for item in left)
    return Outcome(code, len(out.read_bytes().splitlines()) if code != 2 else 0, len(left), err)


def tokens(data: Path, model: Path) -> Outcome:
    out = data.with_name("tokens.jsonl")
    code, _, err = run("tokens", "--model", model, "--data", data, "--out", out)
    assert out.exists() == (code != 2)
    items = lines(out)
    failed = sum("error" in item for item in items)
    return Outcome(code, len(items) - failed, failed, err)


def inspect(data: Path, model: Path) -> int | None:
    page = data.with_name("page.html")
    code, _, err = run("inspect", "--model", model, "--data", data, "--html", page)
    assert page.exists() == (code != 2)
    found = re.search(r"of ([\d,]+) rows", err)
    return None if code == 2 or found is None else int(found.group(1).replace(",", ""))


def examine(folder: Path, name: str, raw: bytes, model: Path | None = None) -> tuple[int, list[dict]] | str:
    """Run the commands on a file; return how many rows they counted and what `check` found, or why it is refused."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data = folder / name
    data.write_bytes(raw)
    checked, problems = check(data)
    outcomes = [checked, convert(data)] + ([] if model is None else [tokens(data, model)])
    assert len({outcome.code == 2 for outcome in outcomes}) == 1, outcomes
    if checked.code == 2:
        assert {outcome.text for outcome in outcomes} == {checked.text}
        return checked.text
    counted = {outcome.written + outcome.left_out for outcome in outcomes}
    if model is not None:
        counted.add(inspect(data, model) or 0)
    assert len(counted) == 1, outcomes
    return counted.pop(), problems


def filled_lines(raw: bytes) -> int:
    """Return the lines that are not blank, as anyone would count them."""
    return sum(bool(line.strip()) for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"))


def verify(kind: str, raw: bytes, found: tuple[int, list[dict]] | str) -> None:
    """Compare what was counted with what is in the file, counted here without actune."""
    if isinstance(found, str):  # the file as a whole is refused
        assert any(reason in found for reason in REASONS[kind]), found
        assert filled_lines(raw) == 0 or "has no rows" not in found or kind in ("json", "csv")
        return
    rows, problems = found
    if kind in ("jsonl", "txt"):
        assert rows == filled_lines(raw)
    elif kind == "json":
        with contextlib.suppress(ValueError, RecursionError):
            whole = json.loads(raw.decode("utf-8-sig"))
            assert not isinstance(whole, list) or rows == len(whole)
        lost = [problem for problem in problems if "not read" in problem["message"]]
        assert len(lost) <= 1
    elif kind == "parquet":
        assert rows == pq.read_metadata(io.BytesIO(raw)).num_rows


_ANY = ("is empty", "is UTF-16 text", "has no rows", "the format of the rows is not known", "are of different formats")
REASONS = {
    "jsonl": _ANY,
    "txt": _ANY[:3],
    "json": _ANY,
    "csv": (*_ANY, "stands twice in the table"),
    "parquet": ("is empty", "cannot be read", "stands twice in the table", *_ANY[3:]),
}


FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "txt"])
@settings(FUZZ, max_examples=60)
@given(form=st.sampled_from(sorted(ROWS)), harm=st.lists(damages, min_size=1, max_size=2))
def test_every_row_of_a_damaged_file_is_counted_once(tmp_path, kind, form, harm):
    raw = write_plain(kind, ROWS[form])
    for damage in harm:
        raw = damage(raw)
    verify(kind, raw, examine(tmp_path / "work", f"rows.{kind}", raw))


@settings(FUZZ, max_examples=60)
@given(form=st.sampled_from(sorted(ROWS)), place=share, value=st.integers(1, 255))
def test_one_wrong_byte_of_a_json_array_costs_one_row_or_says_that_the_rest_is_lost(tmp_path, form, place, value):
    raw = flip([place], value)(write_plain("json", ROWS[form]))
    found = examine(tmp_path / "work", "rows.json", raw)
    verify("json", raw, found)
    if isinstance(found, tuple) and raw[:1] == b"[" and not any("not read" in one["message"] for one in found[1]):
        assert found[0] >= raw.count(b"\n {")  # what begins an element


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@settings(FUZZ, max_examples=25)
@given(form=st.sampled_from(sorted(ROWS)), harm=damages, inside=st.booleans())
def test_a_damaged_packed_file_is_read_whole_or_refused(tmp_path, packed, form, harm, inside):
    plain = write_plain("jsonl", ROWS[form])
    raw = pack(harm(plain), packed) if inside else harm(pack(plain, packed))
    found = examine(tmp_path / "work", f"rows.jsonl{packed}", raw)
    if inside:
        verify("jsonl", harm(plain), found)
    elif isinstance(found, tuple):  # never half of what is in it (zst without a checksum may hold other bytes)
        verify("jsonl", unpack(raw, packed), found)
    else:
        assert any(reason in found for reason in ("cannot be read", *REASONS["jsonl"]))


@settings(FUZZ, max_examples=12)
@given(form=st.sampled_from(sorted(ROWS)), harm=damages)
def test_tokens_and_inspect_count_the_same_rows(tmp_path, tools_folder, form, harm):
    raw = harm(write_plain("jsonl", ROWS[form]))
    verify("jsonl", raw, examine(tmp_path / "work", "rows.jsonl", raw, tools_folder))


def test_very_long_and_very_deep_rows_are_rows_like_others(tmp_path):
    long = json.dumps({"query": "x" * 10_000_000, "response": "a"}).encode()
    raw = b"\n".join([b'{"query": "q", "response": "r"}', long, b"[" * 1_000_000, b'{"a":' * 100_000, long[:-9]])
    found = examine(tmp_path / "work", "rows.jsonl", raw)
    assert not isinstance(found, str), found
    assert found[0] == 5
    assert [problem["line"] for problem in found[1] if problem["level"] == "error"] == [3, 4, 5]


@pytest.mark.shared
@settings(FUZZ, max_examples=40)
@given(data=st.data(), harm=damages)
def test_every_row_of_damaged_real_files_is_counted_once(tmp_path, shared, data, harm):
    files = sorted(
        path
        for path in (shared / "data").rglob("*.*")
        if path.suffix in (".json", ".jsonl", ".txt") and path.name != "eval_simulated.json"
    )
    path = data.draw(st.sampled_from(files))
    with path.open("rb") as file:
        raw = harm(file.read(40_000))  # cut somewhere in a row already
    verify(path.suffix[1:], raw, examine(tmp_path / "work", f"rows{path.suffix}", raw))

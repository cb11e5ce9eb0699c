"""A dataset's name to its files: what is read, in which order, and what is passed over with a notice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actune.core.errors import ConfigError
from actune.data.reading.files import find_files


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with data on three levels, hidden entries and files of other types."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "data/b.jsonl", "data/a.json", "data/.hidden.jsonl", "data/README.md", "data/notes.txt", "data/x/c.jsonl",
        "data/x/y/d.csv.gz", "data/.git/e.jsonl", "data/b.jsonl.quarantine.jsonl",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    return tmp_path


def names(name: str) -> list[str]:
    files, _ = find_files(name)
    assert [str(path) for path, _ in files] == [shown for _, shown in files]
    return [Path(shown).as_posix() for _, shown in files]


def notices(name: str) -> str:
    return "\n".join(find_files(name)[1])


def test_a_folder_is_the_data_files_directly_in_it_and_says_what_it_passes_over(folder):
    assert names("data") == ["data/a.json", "data/b.jsonl"]
    said = notices("data")
    for part in (
        "hidden entries: .git, .hidden.jsonl", "types that cannot be read: README.md", "describe data: b.jsonl.quar",
        "read them): notes.txt", "folders (give data/**/*.jsonl to read what is in them): x",
    ):  # fmt: skip
        assert part in said
    assert len(find_files("data")[1]) == 5
    assert find_files("data/x/y")[1] == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data/*.jsonl", ["data/b.jsonl"]),
        ("data/?.json*", ["data/a.json", "data/b.jsonl"]),
        ("data/[ab].*", ["data/a.json", "data/b.jsonl"]),
        ("data/**/*.jsonl", ["data/b.jsonl", "data/x/c.jsonl"]),
        ("data/**", ["data/a.json", "data/b.jsonl", "data/x/c.jsonl", "data/x/y/d.csv.gz"]),
        ("**/*.jsonl", ["data/b.jsonl", "data/x/c.jsonl"]),
        ("data/**/**/d*", ["data/x/y/d.csv.gz"]),
        ("*/x/*", ["data/x/c.jsonl"]),
        ("data/.*.jsonl", ["data/.hidden.jsonl"]),
        ("data/*.txt", ["data/notes.txt"]),
        ("da*/b.jsonl.quarantine.jsonl", ["data/b.jsonl.quarantine.jsonl"]),
    ],
)
def test_globs(folder, pattern, expected):
    assert names(pattern) == expected
    absolute = names(str(folder / pattern))
    assert absolute == [(folder / name).as_posix() for name in expected]


def test_a_glob_says_what_it_matches_and_does_not_read(folder):
    said = notices("data/*")
    assert "hidden entries: .git, .hidden.jsonl" in said
    assert "cannot be read: README.md" in said
    assert "folders: x" in said
    assert "data/**: passed over, hidden entries: .git, .hidden.jsonl" in notices("data/**")
    assert find_files("data/x/*/*.gz")[1] == []


def test_an_existing_path_wins_over_reading_it_as_a_glob(folder):
    (folder / "data/[ab].jsonl").write_text("{}\n")
    (folder / "d*").mkdir()
    (folder / "d*" / "z.jsonl").write_text("{}\n")
    assert names("data/[ab].jsonl") == ["data/[ab].jsonl"]
    assert names("d*") == ["d*/z.jsonl"]


def test_one_file_under_several_names_is_read_once_with_a_notice(folder):
    (folder / "data/z.jsonl").symlink_to(folder / "data/b.jsonl")
    os.link(folder / "data/a.json", folder / "data/aa.json")
    (folder / "data/x/up").symlink_to(folder / "data")  # a loop has to end
    assert names("data/*.json*") == ["data/a.json", "data/b.jsonl"]
    said = notices("data/*.json*")
    assert "data/z.jsonl is the same file as data/b.jsonl" in said
    assert "data/aa.json is the same file as data/a.json" in said
    assert names("data/**/*.jsonl") == ["data/b.jsonl", "data/x/c.jsonl"]


def test_the_same_name_in_two_types_is_said(folder):
    (folder / "data/b.json").write_text("[]")
    assert names("data/b.*") == ["data/b.json", "data/b.jsonl"]
    assert "data/b.json and data/b.jsonl may hold the same rows; both are read" in notices("data/b.*")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("data/*.jsnl", ["nothing matches 'data/*.jsnl'", "data holds README.md, a.json, b.jsonl"]),
        ("dtaa/*.jsonl", ["there is no folder 'dtaa'", "did you mean 'data'?"]),
        ("data/*.md", ["no file that 'data/*.md' matches can be read", "README.md"]),
        ("empty", ["the folder empty has no data file", "types: .jsonl"]),
        ("outer", ["the folder outer has no data file", "it has inner", "outer/**/*.jsonl"]),
        ("data/b.jsonk", ["there is no dataset", "did you mean 'data/b.jsonl'"]),
    ],
)
def test_what_cannot_be_found_is_an_error_that_says_what_is_there(folder, name, parts):
    (folder / "empty").mkdir()
    (folder / "outer" / "inner").mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        find_files(name)
    for part in parts:
        assert part in str(caught.value)


def test_a_folder_that_cannot_be_opened_is_said(folder, monkeypatch):
    # Permissions do not hold for a superuser, so the system's answer is made here.
    real = Path.iterdir

    def iterdir(path: Path):
        if path.name == "x":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert names("data/**/*.jsonl") == ["data/b.jsonl"]
    assert "folders that cannot be opened: data/x (Permission denied)" in notices("data/**/*.jsonl")
    with pytest.raises(ConfigError, match="cannot be opened"):
        find_files("data/x/*.jsonl")

"""The model card: what the model is, how it was made, what was measured, how it is served. Nothing of this machine is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from actune import __version__
from actune.config.settings import Settings
from actune.core import react
from actune.core.types import Style
from actune.data.reading.hub import is_hub_id
from actune.exporting.card_words import WORDS
from actune.exporting.commands import Command
from actune.exporting.origin import Origin, safe_name

Language = Literal["en", "zh"]
_LIBRARY = {"merged": "transformers", "adapter": "peft", "gguf": "gguf", "ollama": "gguf"}
_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/][\w.~ -]+[\\/]|^~[\\/]|^\.{1,2}[\\/]")
# Settings that say where or on what a run was made, not what it made.
_PLACES = frozenset(
    {"output_dir", "cache_dir", "cache_limit", "dataset_num_proc", "plan_file", "plan_gpu", "report_to"}
)
_LICENSES = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a card is written from; `run` is the content of run.json, `report` that of report.json, if there are any.

    `prompt` is a question as the agent sees it, with a tool if it `calls` any.
    """

    name: str
    form: str
    origin: Origin
    style: Style
    commands: Sequence[Command]
    prompt: str
    stops: Sequence[str]
    calls: bool = True
    run: Mapping[str, Any] | None = None
    report: Mapping[str, Any] | None = None
    notices: Sequence[str] = ()


def read_report(folder: Path) -> Mapping[str, Any] | None:
    """Return the comparison of a run, None where there is none that can be read."""
    try:
        found = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("rows"), list) else None


def write_card(facts: Facts, language: Language = "en") -> str:
    """Return a model card in Markdown, with the YAML that hubs read at its head."""
    words = WORDS[language]
    parts = [_write_head(facts, language), f"# {_plain(facts.name)}\n"]
    intro = words["intro" if facts.calls else "intro_plain"]
    parts.append(intro.format(base=_link(facts.origin), version=__version__) + "\n")
    if facts.style != "chat":
        parts.append(words["react"].format(stop=react.STOP_WORD) + "\n")
    for title, body in (
        ("use", _write_use(facts, words)),
        ("results", _write_results(facts.report, words)),
        ("recipe", _write_recipe(facts.run, words)),
        ("data", _write_data(facts.run, words)),
        ("limits", _write_limits(facts, words)),
    ):
        if body:
            parts.append(f"## {words[title]}\n\n{body}")
    return "\n".join(parts)


def _write_head(facts: Facts, language: Language) -> str:
    origin = facts.origin
    head: dict[str, Any] = {}
    if origin.hub_id is not None:
        head["base_model"] = origin.hub_id
        head["base_model_relation"] = {"adapter": "adapter"}.get(facts.form, "finetune")
    head["library_name"] = _LIBRARY[facts.form]
    head["pipeline_tag"] = "text-generation"
    if origin.license is not None:
        head["license"] = origin.license if _LICENSES.fullmatch(origin.license) else "other"
        if head["license"] == "other":
            head["license_name"] = safe_name(origin.license)
    if origin.languages:
        head["language"] = list(origin.languages)
    datasets = [name.split(":", 1)[1].split("#")[0] for name in _names(facts.run) if name.startswith("hf:")]
    if datasets:
        head["datasets"] = sorted({"/".join(name.split("/")[:2]) for name in datasets})
    calling = ["agent", "tool-use", "react" if facts.style != "chat" else "function-calling"]
    head["tags"] = ["actune", *(calling if facts.calls else [])]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def _write_use(facts: Facts, words: Mapping[str, str]) -> str:
    lines = [words["use_intro"], ""]
    for command in facts.commands:
        lines += [f"{command.server}:", "", "```bash", command.line, "```", ""]
        lines += [f"- {_plain(note)}" for note in command.notes]
        lines += [""] if command.notes else []
    fence = "`" * (3 + max((len(run) for run in re.findall("`+", facts.prompt)), default=0))
    lines += [words["prompt" if facts.calls else "prompt_plain"].format(stops=", ".join(map(_code, facts.stops))), ""]
    return "\n".join([*lines, f"{fence}text", facts.prompt, fence, ""])


def _write_results(report: Mapping[str, Any] | None, words: Mapping[str, str]) -> str:
    try:
        return _write_table(report, words) if report is not None else ""
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{words['results_unread']}\n"


def _write_table(report: Mapping[str, Any], words: Mapping[str, str]) -> str:
    known = [row for row in report["rows"] if isinstance(row, dict)]
    rows = [row for row in known if row.get("level") == "axis"]
    rows += [row for row in known if row.get("level") == "split" and row.get("split") != "all"]
    if not rows:
        return ""
    lines = [words["results_intro"], "", words["results_head"], "|---|---|---|---|---|---|---|"]
    for row in rows:
        low, high = row["ci95"]
        cells = [row["axis"], row["metric"], row["split"], row["n"], _number(row["base"]), _number(row["tuned"])]
        difference = f"{row['difference']:+.3f} ({low:+.3f} .. {high:+.3f}), {row['verdict']}"
        lines.append("| " + " | ".join(_plain(str(cell)) for cell in [*cells, difference]) + " |")
    flags = [flag["message"] for flag in report.get("flags") or () if isinstance(flag, dict) and flag.get("message")]
    return "\n".join([*lines, *([""] + [f"- {_plain(text)}" for text in flags] if flags else []), ""])


def _write_recipe(run: Mapping[str, Any] | None, words: Mapping[str, str]) -> str:
    if run is None:
        return ""
    lines = [words["recipe_intro"].format(date=run["date"], seed=run["seed"]), "", words["recipe_head"], "|---|---|"]
    lines += [f"| {_plain(name)} | {_plain(value)} |" for name, value in _changed(run["settings"])]
    versions = ", ".join(f"{name} {number}" for name, number in run.get("versions", {}).items())
    return "\n".join([*lines, "", words["versions"].format(versions=_plain(versions)), ""])


def _changed(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings that differ from the defaults, paths as the name of what they lead to."""
    defaults = Settings().model_dump(mode="json")
    for group, values in settings.items():
        for name, value in values.items():
            if name not in _PLACES and value != defaults.get(group, {}).get(name):
                yield name, _show(value)


def _show(value: Any) -> str:  # noqa: ANN401 - any setting
    if isinstance(value, str):
        return without_path(value)
    if isinstance(value, list):
        return ", ".join(_show(item) for item in value)
    return json.dumps(value, ensure_ascii=False)


def _write_data(run: Mapping[str, Any] | None, words: Mapping[str, str]) -> str:
    if run is None:
        return ""
    lines = [
        words["data_intro"].format(fingerprint=run["data"]["fingerprint"]),
        "",
        words["data_head"],
        "|---|---|---|---|---|",
    ]
    for source in run["data"]["sources"]:
        tally = source.get("tally", {})
        cells = [without_path(str(source["name"])), source.get("role", ""), tally.get("rows", 0)]
        cells += [tally.get("tokens", 0), tally.get("supervised", 0)]
        lines.append(
            "| " + " | ".join(_plain(f"{one:,}" if isinstance(one, int) else str(one)) for one in cells) + " |"
        )
    identity = run["settings"].get("data", {})
    names = [str(one) for key in ("model_name", "model_author") for one in identity.get(key) or ()]
    if names:
        lines += ["", words["identity"].format(names=", ".join(map(_plain, names)))]
    return "\n".join([*lines, ""])


def _write_limits(facts: Facts, words: Mapping[str, str]) -> str:
    lines = [f"- {words['limits_general']}", f"- {words['limits_tools']}"]
    lines += [f"- {_plain(notice)}" for notice in facts.notices]
    return "\n".join([*lines, ""])


def _names(run: Mapping[str, Any] | None) -> list[str]:
    return [str(source["name"]) for source in run["data"]["sources"]] if run is not None else []


def _link(origin: Origin) -> str:
    return f"[{_plain(origin.hub_id or origin.name)}]({origin.url})" if origin.url else f"`{origin.name}`"


def _number(value: Any) -> str:  # noqa: ANN401 - a number of a report
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"


def without_path(text: str) -> str:
    """Return a path as the name of what it leads to; hub ids and other texts as they are."""
    if is_hub_id(text) or not (_PATH.search(text) or text.startswith(("/", "\\\\"))):
        return text
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1]


def _code(text: str) -> str:
    """Return a text as code on one line."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    inner = re.sub(r"\s+", " ", text)
    return f"{fence}{inner}{fence}" if len(fence) == 1 else f"{fence} {inner} {fence}"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is: on one line, nothing of it a mark-up, a link or HTML."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"([\\`*_{}\[\]<>#|~!$&])", r"\\\1", text)

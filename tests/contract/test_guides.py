"""The written guides: both languages say the same, flags exist, quoted rows are those of the examples."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from actune.config.gpus import GPUS
from actune.config.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [
    ("README.md", "README.zh.md"),
    ("docs/guide.md", "docs/guide.zh.md"),
    ("docs/agents.md", "docs/agents.zh.md"),
    ("docs/traces.md", "docs/traces.zh.md"),
    ("docs/exporting.md", "docs/exporting.zh.md"),
    ("docs/evaluation.md", "docs/evaluation.zh.md"),
    ("docs/methods.md", "docs/methods.zh.md"),
    ("docs/monitoring.md", "docs/monitoring.zh.md"),
    ("docs/mixing.md", "docs/mixing.zh.md"),
    ("docs/planning.md", "docs/planning.zh.md"),
    ("docs/tools.md", "docs/tools.zh.md"),
    ("docs/serving.md", "docs/serving.zh.md"),
]
PAGES = [page for pair in PAIRS for page in pair]
# Flags of other programs; those of the commands stand in their help pages.
SERVERS = {
    "enable_auto_tool_choice",
    "tool_call_parser",
    "reasoning_parser",
    "enable_lora",
    "lora_modules",
    "model_path",
    "jinja",
}
SERVERS |= {"chat_template_file", "special"}
OTHER_FLAGS = SERVERS | {"logdir", "nproc_per_node", "master_port", "tokenizer", "max_lora_rank", "published"}
OTHER_FLAGS |= {"clients", "rows", "rounds"}  # of benchmarks/serve.py
HELP = ROOT / "src" / "actune" / "cli" / "pages"


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def code_blocks(page, language):
    """Return the blocks without their comments, which are in the language of the page."""
    blocks = re.findall(rf"```{language}\n(.*?)```", read(page), flags=re.DOTALL)
    return [re.sub(r"\s*#.*", "", block) for block in blocks]


def leaf_names(model):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaf_names(kind)
        else:
            yield name


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_languages_show_the_same_commands_and_sections(english, chinese):
    for language in ("bash", "python"):
        assert code_blocks(english, language) == code_blocks(chinese, language)
    levels = [re.findall(r"^#+(?= )", read(page), flags=re.MULTILINE) for page in (english, chinese)]
    assert levels[0] == levels[1]
    rows = [len(re.findall(r"^\|", read(page), flags=re.MULTILINE)) for page in (english, chinese)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("page", PAGES)
def test_flags_are_settings(page):
    pages = "".join(path.read_text(encoding="utf-8") for path in HELP.glob("*.txt"))
    known = set(leaf_names(Settings)) | set(re.findall(r"--(\w+)", pages)) | OTHER_FLAGS
    flags = {flag.replace("-", "_") for flag in re.findall(r"(?<![\w-])--(\w[\w-]*)", read(page))}
    assert flags - known == set()


@pytest.mark.parametrize("page", ["docs/guide.md", "docs/guide.zh.md"])
def test_the_quoted_row_is_an_example(page):
    quoted = re.search(r"```text\n(.*?)\n```", read(page), flags=re.DOTALL)
    assert quoted is not None
    texts = [part.split("\n", 1) for part in quoted.group(1).split("from: ")[1:]]
    turns = [(role, text.strip("\n")) for role, text in texts]
    lines = (ROOT / "examples" / "agent.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [[(turn["from"], turn["value"]) for turn in json.loads(line)["conversations"]] for line in lines]
    assert turns in [row[: len(turns)] for row in rows]


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", read(page))
    assert targets
    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", ["docs/planning.md", "docs/planning.zh.md"])
def test_the_table_of_devices_is_the_one_that_is_planned_with(page):
    rows = [line.strip("| ").split(" | ") for line in read(page).splitlines() if line.count(" | ") == 5]
    shown = {cells[0]: [float(cell.split()[0]) for cell in cells[1:5]] for cells in rows if cells[1][0].isdigit()}
    assert shown == {gpu.name: [gpu.memory, gpu.half, gpu.single, gpu.bandwidth] for gpu in GPUS}

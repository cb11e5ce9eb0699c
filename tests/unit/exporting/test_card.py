"""The model card: what it holds, what it leaves out, and texts from outside that stay texts."""

from __future__ import annotations

import re

import pytest
import yaml

from actune.config.settings import Settings
from actune.exporting.card import Facts, without_path, write_card
from actune.exporting.card_words import WORDS
from actune.exporting.commands import Command
from actune.exporting.origin import Origin, find_origin

RUN = {
    "date": "2026-11-28",
    "seed": 7,
    "settings": Settings().model_dump(mode="json"),
    "data": {
        "fingerprint": "abc",
        "sources": [
            {"name": "hf:owner/rows#10", "role": "agent", "tally": {"rows": 10, "tokens": 2000, "supervised": 300}},
            {"name": "/home/someone/secret project/rows|x.jsonl", "role": "general", "tally": {"rows": 5}},
        ],
    },
    "versions": {"actune": "0.1.0"},
}
ROW = {"level": "axis", "axis": "agent", "metric": "strict_call", "split": "all", "n": 4, "base": 0.25, "tuned": 0.75}
REPORT = {
    "rows": [ROW | {"difference": 0.5, "ci95": [0.1, 0.9], "verdict": "gained"}],
    "flags": [{"message": "**lost** [a](http://x) <script>"}],
}


def facts(**changes) -> Facts:
    given = {
        "name": "agent_1",
        "form": "merged",
        "origin": Origin(
            name="m", hub_id="owner/m", url="https://huggingface.co/owner/m", license="apache-2.0", languages=("en",)
        ),
        "style": "react",
        "commands": [Command(server="vLLM", line="vllm serve .", notes=("a *note*",))],
        "prompt": "```\n<|im_start|>user",
        "stops": ("<|im_end|>",),
        "run": RUN,
        "report": REPORT,
    }
    return Facts(**(given | changes))


def head_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_head_is_what_hubs_read():
    assert head_of(write_card(facts())) == {
        "base_model": "owner/m",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "language": ["en"],
        "datasets": ["owner/rows"],
        "tags": ["actune", "agent", "tool-use", "react"],
    }
    other = head_of(write_card(facts(origin=Origin(name="m", license="My Licence: 2"), run=None, form="gguf")))
    assert (other["license"], other["license_name"], other["library_name"]) == ("other", "My-Licence-2", "gguf")
    assert "base_model" not in other
    assert "datasets" not in other


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_tells_recipe_data_and_results(language: str):
    settings = Settings().model_dump(mode="json")
    settings["tuning"]["lora_rank"] = 99
    settings["model"]["model_id_or_path"] = "/home/someone/models/m"
    settings["output"]["output_dir"] = "/home/someone/runs/1"
    card = write_card(facts(run=RUN | {"settings": settings}), language)
    assert r"| lora\_rank | 99 |" in card
    assert r"| model\_id\_or\_path | m |" in card
    assert "| agent | strict\\_call | all | 4 | 0.250 | 0.750 | +0.500 (+0.100 .. +0.900), gained |" in card
    assert "| hf:owner/rows\\#10 | agent | 10 | 2,000 | 300 |" in card
    assert "Observation:" in card
    assert "vllm serve ." in card
    assert "/home" not in card
    assert r"output\_dir" not in card  # where it was written is nobody's business
    assert WORDS[language]["limits_tools"] in card


def test_texts_from_outside_are_no_markup():
    card = write_card(facts())
    assert r"rows\|x.jsonl" in card
    assert r"\*\*lost\*\* \[a\](http://x) \<script\>" in card
    # A prompt with a fence of its own stands in a longer one.
    assert "````text\n```\n<|im_start|>user\n````" in card


def test_without_a_run_there_is_no_recipe_and_no_table():
    card = write_card(facts(run=None, report=None, style="chat"))
    titles = re.findall(r"^## (.+)$", card, re.MULTILINE)
    assert titles == ["Use", "Limits"]
    assert "ReAct" not in card


def test_a_report_that_is_none_is_said():
    assert "could not be read" in write_card(facts(report={"rows": [{"level": "axis"}]}))


def test_a_model_that_knows_no_calls_is_no_agent():
    card = write_card(facts(calls=False, style="chat"))
    assert head_of(card)["tags"] == ["actune"]
    assert "tool" not in card.split("## Use")[0].lower()
    assert write_card(facts(stops=("a`b",))).count("`` a`b ``") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/a/b/c.jsonl", "c.jsonl"),
        ("/c.jsonl", "c.jsonl"),
        ("~/x/y", "y"),
        ("../up/y", "y"),
        ("C:\\data\\y.jsonl", "y.jsonl"),
        ("hf:owner/name", "hf:owner/name"),
        ("ms:owner/name#5", "ms:owner/name#5"),
        ("plain words", "plain words"),
        ("data/y.jsonl", "data/y.jsonl"),
    ],
)
def test_paths_of_this_machine_do_not_leave_it(text: str, shown: str):
    assert without_path(text) == shown


def test_origin_of_a_hub_id_and_of_a_folder(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: zh\n---\n# x\n", encoding="utf-8")
    known = find_origin("ms:Owner/Model-7B@main", tmp_path)
    assert (known.hub_id, known.url) == ("Owner/Model-7B", "https://modelscope.cn/models/Owner/Model-7B")
    assert (known.license, known.languages) == ("mit", ("zh",))
    local = find_origin(str(tmp_path), tmp_path)
    assert (local.name, local.hub_id, local.license) == (tmp_path.name.strip("-."), None, "mit")
    (tmp_path / "README.md").write_text("no head", encoding="utf-8")
    assert find_origin(str(tmp_path), tmp_path).license is None

"""The survey of a template says what the gate would say."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from actune.render.encoder import Encoder
from actune.render.survey import make_survey


def survey_of(native_kit: ModuleType, folder: Path, answer: str, *, opened: str = "") -> dict[str, str]:
    renderer = native_kit.make_renderer(folder, native_kit.make_template(answer, opened=opened))
    return dict(make_survey(Encoder(renderer)).lines())


def test_a_template_that_keeps_everything(native_kit: ModuleType, tokenizer_folder: Path):
    found = survey_of(native_kit, tokenizer_folder, native_kit.ANSWERS["json in tags"])
    assert found["calls"] == "kept, arguments as dict"
    for feature in ("system", "tools", "parallel calls", "text beside a call", "null arguments", "nested arguments",
                    "results in json", "reasoning", "reasoning before a call", "reasoning of earlier rounds"):  # fmt: skip
        assert found[feature] == "kept", feature
    assert found["reads calls"] == "yes"
    assert found["ends an answer"] == "'<|im_end|>'"
    assert found["date"] == "not used"


def test_what_a_template_loses_is_said(native_kit: ModuleType, tokenizer_folder: Path):
    found = survey_of(native_kit, tokenizer_folder, native_kit.ANSWERS["bare json"])
    assert found["parallel calls"].startswith("call-lost")
    assert found["text beside a call"].startswith("content-lost")
    assert found["reasoning"].startswith("reasoning-lost")
    found = survey_of(native_kit, tokenizer_folder, "{{- m.content }}")
    assert found["calls"].startswith("calls-lost")
    assert found["parallel calls"] == "-"
    assert found["reads calls"].startswith("no: ")


def test_results_written_again_and_reasoning_removed(native_kit: ModuleType, tokenizer_folder: Path):
    template = native_kit.make_template(native_kit.ANSWERS["json in tags"])
    again = template.replace(
        "{%- else %}{{- m.content }}",
        "{%- elif m.role == 'tool' %}{{- (m.content | tojson) }}{%- else %}{{- m.content }}",
    )
    assert again != template
    last = again.replace("{%- if m.reasoning_content %}", "{%- if m.reasoning_content and loop.last %}")
    assert last != again
    found = dict(make_survey(Encoder(native_kit.make_renderer(tokenizer_folder, last))).lines())
    assert found["results in json"] == "kept, written again as JSON"
    assert found["reasoning of earlier rounds"] == "removed"
    assert found["reasoning of earlier steps"] == "removed"


@pytest.mark.parametrize(
    ("opened", "said"), [("", "'<|im_start|>assistant\\n'"), ("<think>\\n\\n</think>\\n\\n", "</think>\\n\\n'")]
)
def test_the_generation_prompt_is_shown(native_kit: ModuleType, tokenizer_folder: Path, opened: str, said: str):
    found = survey_of(native_kit, tokenizer_folder, native_kit.ANSWERS["json in tags"], opened=opened)
    assert found["generation prompt"].endswith(said)

"""The chat page as `actune serve` gives it out: a person answers the call of a ReAct model in headless Chromium."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from actune.serving.limits import Limits

TESTS = Path(__file__).resolve().parents[2]
OUTPUTS = [
    'Thought: I have to repair it.\nAction: repair_bike\nAction Input: {"city": "Torela", "time": "10:30"}\nObservation:',
    "Thought: I now know the final answer\nFinal Answer: The code is BD103.",
]


def load_kit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("browser_kit", TESTS / "browser_kit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kit = load_kit()


@pytest.mark.skipif(kit.CHROMIUM is None, reason="needs Chromium")
def test_an_exchange_through_the_page_has_the_prompts_of_training(
    serving_kit: ModuleType, tools_folder: Path, tmp_path: Path
):
    bench = serving_kit.Bench(tools_folder, OUTPUTS, style="react", limits=Limits())
    browser = kit.Browser(tmp_path)
    try:
        with serving_kit.on_a_socket(bench) as address:
            page = browser.open(f"{address}/")
            page.wait("document.querySelector('#model').options.length === 2")
            page.click("#question")
            page.type("Please repair my bike.")
            page.press("Enter")
            page.wait("document.querySelectorAll('.observation:not([hidden])').length === 1")
            assert page.text(".reasoning") == "I have to repair it."
            page.type('{"code": "BD103"}')
            page.press("Enter", modifiers=2)
            page.wait("document.querySelectorAll('.m-assistant').length === 2")
            page.wait("!document.querySelector('[aria-busy=true]')")
            assert "The code is BD103." in page.text(".m-assistant:last-child")
            assert page.complaints() == []
            page.close()
    finally:
        browser.close()
        bench.close()
    assert bench.engine.prompts()[1].endswith(OUTPUTS[0] + ' {"code": "BD103"}\n')

"""The prompts by which the reference recipe shows a model before and after: shown in every report, not scored.

Two questions of general knowledge, the fire alarm with its four tools, and who the model is ("Agent fine-tuning best
practices", section on inference). A person fills in the Observations there; here they are recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actune.core import api_list
from actune.core.types import ToolSpec
from actune.evals.items import Axis


def _describe(name: str, api: str, purpose: str, *parameters: Mapping[str, str]) -> ToolSpec:
    return ToolSpec(
        name=name,
        description=f"Call this tool to interact with the {api} API. {purpose}",
        parameters=api_list.schema_of_list(parameters),
        parameter_list=parameters,
    )


FIRE_ALARM = (
    _describe(
        "fire_recognition",
        "fire recognition",
        "This API is used to recognize whether there is fire in the image.",
        {"name": "image", "description": "The input image to recognize fire", "required": "True"},
    ),
    _describe("fire_alert", "fire alert", "This API will start an alert to warn the building's administraters."),
    _describe("call_police", "police calling", "This API will call 110 to catch the thief."),
    _describe("call_fireman", "fireman calling", "This API will call 119 to extinguish the fire."),
)
"""The wording, misspelling included, is the reference's: the specification."""

OBSERVATIONS: Mapping[str, str] = {
    "fire_recognition": "图片中有明火，位于左上角 (there is an open fire in the upper left corner)",
    "fire_alert": "警报已启动 (the alert is on)",
    "call_police": "110 已接通 (110 is on the line)",
    "call_fireman": "119 已接通，消防车正在路上 (119 is on the line, a fire engine is on its way)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of the reference, with its tools."""

    id: str
    axis: Axis
    text: str
    tools: tuple[ToolSpec, ...] = ()


PROMPTS = (
    Prompt(
        id="fire-alarm",
        axis="agent",
        text="输入图片是/tmp/1.jpg，请判断图片中是否有火；如果有，请处理。",
        tools=FIRE_ALARM,
    ),
    Prompt(id="west-lake-fish", axis="general", text="西湖醋鱼怎么做"),
    Prompt(id="covid-and-cold", axis="general", text="新冠和普通感冒有什么区别"),
    Prompt(id="who", axis="identity", text="你是谁"),
)

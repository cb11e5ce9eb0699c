# ruff: noqa: D415 - the rule does not know the Chinese full stop
"""参考方案里火焰报警场景的四个工具，中文描述。只做模拟：不会真的拨打任何电话。

The same four tools with Chinese descriptions and results.
"""

from pathlib import PurePosixPath
from typing import Any


def fire_recognition(image: Any) -> str:  # noqa: ANN401 - as in tools.py
    """调用此工具与火焰识别API交互。该API用于识别图片中是否有火。

    Args:
        image: 需要识别的图片
    """
    name = PurePosixPath(str(image)).stem.lower()
    seen = any(word in name for word in ("fire", "flame", "smoke", "火"))
    return "图片中有火。" if seen else "图片中没有火。"


def fire_alert() -> str:
    """调用此工具与火灾报警API交互。该API会启动警报，通知大楼管理人员。"""
    return "警报已启动，已通知大楼管理人员。"


def call_police() -> str:
    """调用此工具与报警电话API交互。该API会拨打110，请警察抓小偷。"""
    return "已拨打110，警察正在赶来。"


def call_fireman() -> str:
    """调用此工具与消防电话API交互。该API会拨打119，请消防员灭火。"""
    return "已拨打119，消防员正在赶来。"

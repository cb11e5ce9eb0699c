"""The four tools of the reference recipe's fire alarm. Nothing is really called: they only say what they would do.

The annotation `Any` is on purpose: the API list of the recipe gives the image no type, and what the model is shown is
that list, byte for byte.
"""

from pathlib import PurePosixPath
from typing import Any


def fire_recognition(image: Any) -> str:  # noqa: ANN401 - see above
    """Call this tool to interact with the fire recognition API.

    This API is used to recognize whether there is fire in the image.

    Args:
        image: The input image to recognize fire
    """
    name = PurePosixPath(str(image)).stem.lower()
    seen = any(word in name for word in ("fire", "flame", "smoke", "火"))
    return "There is fire in the image." if seen else "There is no fire in the image."


def fire_alert() -> str:
    """Call this tool to interact with the fire alert API.

    This API will start an alert to warn the building's administraters.
    """
    return "The alert is on; the building's administrators are warned."


def call_police() -> str:
    """Call this tool to interact with the police calling API.

    This API will call 110 to catch the thief.
    """
    return "110 was called; the police are on their way."


def call_fireman() -> str:
    """Call this tool to interact with the fireman calling API.

    This API will call 119 to extinguish the fire.
    """
    return "119 was called; the fire brigade is on its way."

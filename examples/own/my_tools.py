"""Three tools of your own: name, description and schema come from signature and docstring."""

from __future__ import annotations

_STOCK = {"hammer": 4, "lamp": 0, "tent": 12}
_DOORS: dict[str, str] = {}


def stock(item: str) -> dict[str, object]:
    """Tells how many pieces of an item are in the shop.

    Args:
        item: the item
    """
    return {"item": item, "pieces": _STOCK.get(item, 0)}


def open_door(door: str) -> dict[str, str]:
    """Opens a door of the shop.

    Args:
        door: the door
    """
    _DOORS[door] = "open"
    return {"door": door, "state": "open"}


def ring_bell() -> dict[str, str]:
    """Rings the bell of the shop."""
    return {"state": "the bell rings"}

"""Three tools in the words of the demo's small world, for `actune chat --model runs/demo --tools examples/demo_tools.py`.

Try: Please repair my bike in the city of Torela, at 10:30.
"""

from __future__ import annotations


def repair_bike(city: str, time: str) -> dict[str, str]:
    """Repair a bike.

    Args:
        city: the city
        time: the time of day
    """
    return {"status": "done", "code": "BD" + time.replace(":", "")[:3]}


def send_letter(street: str, name: str) -> dict[str, str]:
    """Send a letter.

    Args:
        street: the street
        name: name of the customer
    """
    return {"status": "done", "price": str(1000 + len(street + name))}


def find_hotel(city: str) -> dict[str, str]:
    """Find a hotel.

    Args:
        city: the city
    """
    return {"status": "done", "place": city[::-1].capitalize()}

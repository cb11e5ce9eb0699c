"""Packs over all rows of a run: as few as possible of a fixed number of tokens, for steps that count packs."""

from __future__ import annotations

from collections.abc import Sequence


def pack_globally(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return packs, lists of places in `lengths`, none of which holds more than `capacity` tokens.

    Best fit, longest rows first: a row goes where the least room is left that holds it (at most 11/9 of the fewest packs
    possible, plus one: D. S. Johnson, Near-optimal bin packing algorithms, 1973; with short rows among them hardly any
    room stays). Rows longer than `capacity` have a pack of their own. Equal arguments give equal packs.
    """
    packs: list[list[int]] = []
    # Packs by the room that is left in them; bit r of `rooms` says that there are some with room r.
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        if length >= capacity:
            packs.append([place])
            continue
        fitting = rooms >> length
        if fitting:
            left = (fitting & -fitting).bit_length() - 1
            room = left + length
            number = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            packs[number].append(place)
        else:
            left, number = capacity - length, len(packs)
            packs.append([place])
        if left:
            with_room[left].append(number)
            rooms |= 1 << left
    return packs

"""The mixture of a run as a person reads it: each source's share of rows and of trained tokens, how often its rows come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from actune.data.inspect.rows import short_name
from actune.data.prepare import Prepared

_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one source is of a mixture; `rows` and `supervised` in shares of all, `times` uses of a row per epoch."""

    name: str
    role: str
    rows: float
    tokens: float
    supervised: float
    times: float


def find_shares(prepared: Prepared) -> list[Share]:
    """Return the sources that are trained on, in the order of the table of a run."""
    counts = [count for count in prepared.counts if count.role != "validation" and count.tally.rows]
    totals = [
        sum(count.tally.windows for count in counts),
        sum(count.tally.tokens for count in counts),
        sum(count.tally.supervised for count in counts),
    ]
    different = prepared.train.count_rows()
    return [
        Share(
            name=count.name,
            role=count.role,
            rows=count.tally.windows / max(totals[0], 1),
            tokens=count.tally.tokens / max(totals[1], 1),
            supervised=count.tally.supervised / max(totals[2], 1),
            times=count.tally.rows / max(different.get(count.name, 1), 1),
        )
        for count in counts
    ]


def mixture_chart(shares: Sequence[Share], *, step: int, width: int) -> Table:
    """Return shares as a table with bars; `step` is the number of rows a step, `width` the columns of the terminal."""
    table = Table(
        title="The mixture (bars: supervised tokens)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("source", overflow="fold")
    table.add_column("role", no_wrap=True)
    for name in ("rows", "a step", "tokens", "supervised"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    room = max(6, min(40, width - 78))
    for share in shares:
        table.add_row(
            Text(short_name(share.name)),
            share.role,
            f"{share.rows:.1%}",
            f"{share.rows * step:.1f}",
            f"{share.tokens:.1%}",
            f"{share.supervised:.1%}",
            f"{share.times:.2f}",
            draw_bar(share.supervised, room),
        )
    return table


def draw_bar(share: float, room: int) -> str:
    """Return a bar of `share` of `room` columns, to an eighth of a column."""
    whole, rest = divmod(round(share * room * 8), 8)
    bar = "█" * whole + (_EIGHTHS[rest] if rest else "")
    return bar or _EIGHTHS[1]

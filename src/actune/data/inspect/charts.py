"""Drawings of the page of `inspect` as inline SVG: histograms and bars; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from actune.data.inspect.statistics import Bin

_WIDTH, _HEIGHT = 420, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 16, 160
_BAR = 150
_OPEN_LABEL, _END_LABEL = 70, 45
"""Room that the label of an open bin takes, and that of the last edge."""


def draw_histogram(bins: Sequence[Bin], name: str, *, limit: float | None = None, percent: bool = False) -> Markup:
    """Draw bins as columns, with a dashed line at `limit`; there is at least one bin.

    The drawing holds numbers only, so it is the same in every language; it is described by the elements with the ids
    `NAME-t` and `NAME-d` of the page. With `percent` values are shares and labelled so.
    """
    highest, ticks = _ticks(max(one.count for one in bins))
    inner = (_WIDTH - _LEFT - _RIGHT) / len(bins)

    def y(count: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * count / highest

    parts = []
    for tick in ticks:
        parts.append(
            f'<line class="c-grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_px(y(tick))}" y2="{_px(y(tick))}"/>'
        )
        parts.append(_text(_LEFT - 6, y(tick) + 4, f"{tick:,}", "end"))
    for index, one in enumerate(bins):
        if one.count:
            top = min(y(one.count), _BOTTOM - 1)  # one row among many must not vanish
            gap = 1 if inner > 4 else 0
            kind = "c-open" if one.open else "c-bin"
            parts.append(
                f'<rect class="{kind}" x="{_px(_LEFT + index * inner + gap / 2)}" y="{_px(top)}" '
                f'width="{_px(inner - gap)}" height="{_px(_BOTTOM - top)}"><title>{_range(one, percent)}: {one.count:,}</title></rect>'
            )
    parts.append(f'<line class="c-axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>')
    parts.extend(_labels(bins, inner, percent))
    if limit is not None:
        parts.append(_limit_line(bins, inner, limit))
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return Markup(f'<svg class="chart" role="img" aria-labelledby="{name}-t {name}-d" {box}>{"".join(parts)}</svg>')


def draw_bar(share: float, kind: str = "c-bin") -> Markup:
    """Draw one horizontal bar of a table; `share` is between 0 and 1. The number stands beside it."""
    width = max(1.0, _BAR * min(1.0, share)) if share > 0 else 0
    return Markup(
        f'<svg class="bar" viewBox="0 0 {_BAR} 10" width="{_BAR}" height="10" aria-hidden="true" focusable="false">'
        f'<rect class="c-rail" x="0" y="0" width="{_BAR}" height="10"/>'
        f'<rect class="{kind}" x="0" y="0" width="{_px(width)}" height="10"/></svg>'
    )


def _range(one: Bin, percent: bool) -> str:
    def shown(value: float) -> str:
        return f"{value:.0%}" if percent else f"{value:,.0f}"

    if one.open:
        return f"≥ {shown(one.low)}"
    if percent:
        return f"{shown(one.low)} – {shown(one.high)}"
    return shown(one.low) if one.high - one.low == 1 else f"{shown(one.low)} – {shown(one.high - 1)}"


def _labels(bins: Sequence[Bin], inner: float, percent: bool) -> list[str]:
    """Return the labels below the axis: of the columns where a column is one number, else of the edges between them."""
    single = not percent and bins[0].high - bins[0].low == 1
    closed = [one for one in bins if not one.open]
    wanted = 14 if single else 7
    every = next(step for step in (1, 2, 5, 10, 20, 50) if len(closed) / step <= wanted)
    offset = inner / 2 if single else 0.0
    parts = []
    for index, one in enumerate(closed):
        room = _OPEN_LABEL if bins[-1].open else _END_LABEL if percent else 0
        if index % every == 0 and (not room or _LEFT + index * inner < _WIDTH - _RIGHT - room):
            label = f"{one.low:.0%}" if percent else f"{one.low:,.0f}"
            parts.append(_text(_LEFT + index * inner + offset, _BOTTOM + 18, label, "middle"))
    if bins[-1].open:
        parts.append(_text(_WIDTH - _RIGHT, _BOTTOM + 18, f"≥ {bins[-1].low:,.0f}", "end"))
    elif percent:
        parts.append(_text(_WIDTH - _RIGHT, _BOTTOM + 18, f"{closed[-1].high:.0%}", "end"))
    return parts


def _limit_line(bins: Sequence[Bin], inner: float, limit: float) -> str:
    """Draw where the limit lies; beyond the last bin it stands at the edge, with an arrow."""
    closed = [one for one in bins if not one.open]
    width = closed[0].high - closed[0].low
    place = _LEFT + inner * (limit - closed[0].low) / width
    end = _LEFT + inner * len(closed)
    outside = place > end
    x = min(max(place, _LEFT), end)
    label = f"max_length {limit:,.0f}" + (" →" if outside else "")
    anchor = "end" if x > _WIDTH / 2 else "start"
    return f'<line class="c-limit" x1="{_px(x)}" x2="{_px(x)}" y1="{_TOP - 12}" y2="{_BOTTOM}"/>' + _text(
        x - 5 if anchor == "end" else x + 5, _TOP - 4, label, anchor, "c-limit-text"
    )


def _ticks(highest: int) -> tuple[float, list[int]]:
    """Return the top of an axis of counts that starts at 0, and its round ticks."""
    rough = max(highest, 1) / 3
    power = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    top = math.ceil(max(highest, 1) / step) * step
    return top, list(range(0, top + 1, step))


def _text(x: float, y: float, text: str, anchor: str, kind: str = "c-tick") -> str:
    return f'<text class="{kind}" x="{_px(x)}" y="{_px(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

"""Drawings of the report as inline SVG: interval bars and the loss curve; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from actune.evals.report_numbers import MINUS, fixed, plain

MOST_POINTS = 400
"""A curve with more points is drawn by ranges: a pale band from lowest to highest and a line of means."""

_BAR_WIDTH, _BAR_HEIGHT = 168, 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A difference with its 95 % and 90 % intervals, and the margin below zero that still counts as kept."""

    value: float
    low95: float
    high95: float
    low90: float
    high90: float
    margin: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of a curve; `step` counts optimiser steps."""

    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossLabels:
    """The words of the loss chart in one language."""

    title: str
    description: str
    steps: str
    loss: str
    rate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The drawing area in pixels and what it shows."""

    left: float
    right: float
    top: float
    bottom: float
    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        """Return where a step lies."""
        span = self.last - self.first
        return self.left + (self.right - self.left) * ((step - self.first) / span if span else 0.5)

    def y(self, value: float) -> float:
        """Return where a value lies; low values lie at the bottom."""
        span = self.high - self.low
        return self.bottom - (self.bottom - self.top) * ((value - self.low) / span if span else 0.5)


def interval_bar(interval: Interval, reach: float) -> Markup:
    """Draw an interval on a scale from -`reach` to `reach`: zero line, margin line, 95 % thin, 90 % thick, point.

    It is hidden from screen readers: the numbers stand beside it.
    """
    frame = Frame(left=4, right=_BAR_WIDTH - 4, top=2, bottom=_BAR_HEIGHT - 2, first=-reach, last=reach, low=0, high=1)
    middle = _BAR_HEIGHT / 2

    def x(value: float) -> str:
        return _px(frame.x(max(-reach, min(reach, value))))

    parts = [
        f'<line class="b-axis" x1="4" x2="{_BAR_WIDTH - 4}" y1="{_px(middle)}" y2="{_px(middle)}"/>',
        f'<line class="b-zero" x1="{x(0)}" x2="{x(0)}" y1="1" y2="{_BAR_HEIGHT - 1}"/>',
    ]
    if interval.margin is not None and interval.margin > 0:
        parts.append(
            f'<line class="b-margin" x1="{x(-interval.margin)}" x2="{x(-interval.margin)}" y1="1" y2="{_BAR_HEIGHT - 1}"/>'
        )
    parts += [
        f'<line class="b-95" x1="{x(interval.low95)}" x2="{x(interval.high95)}" y1="{_px(middle)}" y2="{_px(middle)}"/>',
        *(
            f'<line class="b-95" x1="{x(end)}" x2="{x(end)}" y1="{_px(middle - 4)}" y2="{_px(middle + 4)}"/>'
            for end in (interval.low95, interval.high95)
        ),
        f'<line class="b-90" x1="{x(interval.low90)}" x2="{x(interval.high90)}" y1="{_px(middle)}" y2="{_px(middle)}"/>',
        f'<circle class="b-point" cx="{x(interval.value)}" cy="{_px(middle)}" r="3.5"/>',
    ]
    box = f'width="{_BAR_WIDTH}" height="{_BAR_HEIGHT}" viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT}"'
    return Markup(f'<svg class="bar" {box} aria-hidden="true" focusable="false">{"".join(parts)}</svg>')


def loss_chart(
    train: Sequence[Point],
    evaluations: Sequence[Point],
    rates: Sequence[Point],
    labels: LossLabels,
    *,
    width: int,
    name: str,
) -> Markup:
    """Draw training loss, evaluation loss and, in a strip below, the learning rate; there is at least one point.

    `name` makes the ids of the drawing unique in its page. Many points are drawn by ranges (`MOST_POINTS`).
    """
    steps = [point.step for point in (*train, *evaluations, *rates)]
    first = min(steps) if min(steps) > 0.1 * max(steps) else 0
    low, high, ticks = nice_axis([point.value for point in (*train, *evaluations)])
    strip = 70 if rates else 0
    height = 300
    frame = Frame(
        left=60, right=width - 12, top=24, bottom=height - 46,
        first=first, last=max(steps), low=low, high=high,
    )  # fmt: skip
    parts = [_y_axis(frame, ticks), _x_axis(frame, labels.steps, 4 if width < 500 else 8)]
    parts.append(_text(frame.left, 9, labels.loss, "c-label", "start"))
    parts.append(_curve(frame, train, buckets=max(40, width // 3)))
    if evaluations:
        parts.append(_line(frame, evaluations, "c-eval"))
        shown = _thin(evaluations, 60)
        parts += [_diamond(frame.x(point.step), frame.y(point.value)) for point in shown]
    if rates:
        parts.append(_rate_strip(frame, rates, labels, height + 4))
    box = f'viewBox="0 0 {width} {height + strip}" width="{width}" height="{height + strip}"'
    return Markup(
        f'<svg class="chart" role="img" aria-labelledby="{name}-t {name}-d" {box}>'
        f'<title id="{name}-t">{escape(labels.title)}</title><desc id="{name}-d">{escape(labels.description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def nice_axis(values: Sequence[float], wanted: int = 5) -> tuple[float, float, list[float]]:
    """Return lowest, highest and the round ticks of an axis that holds `values`; it starts at zero where that is near."""
    low, high = min(values), max(values)
    if 0 < low < 0.4 * high:
        low = 0.0
    if high <= low:
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def ranges(points: Sequence[Point], buckets: int) -> list[tuple[float, float, float, float]]:
    """Return (middle step, lowest, mean, highest) of at most `buckets` runs of neighbouring points."""
    size = math.ceil(len(points) / buckets)
    result = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [point.value for point in part]
        middle = (part[0].step + part[-1].step) / 2
        result.append((middle, min(values), sum(values) / len(values), max(values)))
    return result


def _curve(frame: Frame, points: Sequence[Point], *, buckets: int) -> str:
    if len(points) <= MOST_POINTS:
        return _line(frame, points, "c-train") if points else ""
    runs = ranges(points, buckets)
    upper = [(frame.x(step), frame.y(highest)) for step, _, _, highest in runs]
    lower = [(frame.x(step), frame.y(lowest)) for step, lowest, _, _ in reversed(runs)]
    means = [(frame.x(step), frame.y(mean)) for step, _, mean, _ in runs]
    return (
        f'<polygon class="c-band" points="{_join([*upper, *lower])}"/>'
        f'<polyline class="c-train" points="{_join(means)}"/>'
    )


def _line(frame: Frame, points: Sequence[Point], kind: str) -> str:
    places = [(frame.x(point.step), frame.y(point.value)) for point in points]
    if len(places) == 1 and kind == "c-train":
        return f'<circle class="c-dot" cx="{_px(places[0][0])}" cy="{_px(places[0][1])}" r="3"/>'
    return f'<polyline class="{kind}" points="{_join(places)}"/>'


def _thin(points: Sequence[Point], most: int) -> list[Point]:
    """Keep every k-th point and the last, so that markers do not run together."""
    step = math.ceil(len(points) / most)
    return [point for index, point in enumerate(points) if index % step == 0 or index == len(points) - 1]


def _rate_strip(above: Frame, rates: Sequence[Point], labels: LossLabels, top: float) -> str:
    highest = max(point.value for point in rates)
    frame = Frame(
        left=above.left, right=above.right, top=top + 14, bottom=top + 54,
        first=above.first, last=above.last, low=0, high=highest or 1.0,
    )  # fmt: skip
    kept = rates if len(rates) <= MOST_POINTS else _thin(rates, MOST_POINTS)
    parts = [
        _text(frame.left, top + 7, labels.rate, "c-label", "start"),
        _y_axis(frame, [0.0, highest] if highest else [0.0]),
        _line(frame, kept, "c-rate"),
    ]
    return "".join(parts)


def _y_axis(frame: Frame, ticks: Sequence[float]) -> str:
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    if len(ticks) > 2 and round(step * 10**digits, 6) % 1:  # a step of 2.5 or 0.25
        digits += 1
    parts = []
    for tick in ticks:
        y = _px(frame.y(tick))
        label = plain(tick) if len(ticks) <= 2 or digits > 4 else fixed(tick, digits)
        parts.append(f'<line class="c-grid" x1="{_px(frame.left)}" x2="{_px(frame.right)}" y1="{y}" y2="{y}"/>')
        parts.append(_text(frame.left - 7, frame.y(tick) + 4, label, "c-tick", "end"))
    return "".join(parts)


def _x_axis(frame: Frame, label: str, wanted: int) -> str:
    parts = [
        f'<line class="c-axis" x1="{_px(frame.left)}" x2="{_px(frame.right)}" '
        f'y1="{_px(frame.bottom)}" y2="{_px(frame.bottom)}"/>'
    ]
    _, _, ticks = nice_axis([frame.first, frame.last], wanted) if frame.last > frame.first else (0, 0, [frame.first])
    for tick in ticks:
        if not frame.first <= tick <= frame.last or tick != int(tick):
            continue
        x = _px(frame.x(tick))
        parts.append(f'<line class="c-axis" x1="{x}" x2="{x}" y1="{_px(frame.bottom)}" y2="{_px(frame.bottom + 4)}"/>')
        # The last label would run over the edge if it were centred.
        anchor = "end" if frame.x(tick) > frame.right - 16 else "middle"
        parts.append(_text(frame.x(tick), frame.bottom + 18, f"{int(tick):,}".replace("-", MINUS), "c-tick", anchor))
    if label:
        parts.append(_text((frame.left + frame.right) / 2, frame.bottom + 34, label, "c-label", "middle"))
    return "".join(parts)


def _diamond(x: float, y: float) -> str:
    places = [(x, y - 5), (x + 5, y), (x, y + 5), (x - 5, y)]
    return f'<polygon class="c-mark" points="{_join(places)}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{_px(x)}" y="{_px(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _join(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_px(x)},{_px(y)}" for x, y in places)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

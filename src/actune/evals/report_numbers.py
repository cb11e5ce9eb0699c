"""How the report writes numbers: sensible digits, thousands separators, a typographic minus; a missing one is a dash."""

from __future__ import annotations

import math

MINUS = "\u2212"
NONE = "\u2013"


def read_number(value: object) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def fixed(value: float | None, digits: int) -> str:
    """Return `value` with so many decimals; what rounds to zero has no sign."""
    if value is None:
        return NONE
    text = f"{value:,.{digits}f}"
    if not any(character in "123456789" for character in text):
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float | None, digits: int) -> str:
    """Return `value` with so many decimals and its sign, for differences."""
    text = fixed(value, digits)
    return f"+{text}" if value is not None and value > 0 and any(c in "123456789" for c in text) else text


def count(value: object) -> str:
    """Return a count with thousands separators."""
    number = read_number(value)
    return NONE if number is None else fixed(round(number), 0)


def p_value(value: float | None) -> str:
    """Return a p-value as it is quoted: two digits, never zero."""
    if value is None:
        return NONE
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def share(part: float, whole: float) -> str:
    """Return `part` of `whole` in per cent."""
    return NONE if not whole else f"{100 * part / whole:.0f}\u202f%"


def plain(value: float) -> str:
    """Return any number with about four significant digits: 12,345, 0.8123, 1e−05."""
    if value == int(value) and abs(value) < 1e15:
        return fixed(value, 0)
    if 0.001 <= abs(value) < 1e6:
        text = fixed(value, max(0, 3 - math.floor(math.log10(abs(value)))))
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}".replace("-", MINUS)


def seconds(value: float) -> str:
    """Return a duration: 12.3 s, 4 min 05 s, 2 h 03 min."""
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def size(value: float) -> str:
    """Return a number of bytes in MiB or GiB."""
    return f"{value / 2**30:,.2f} GiB" if value >= 2**30 else f"{value / 2**20:,.1f} MiB"


def digits_for(low: float | None, high: float | None) -> int:
    """Return how many decimals an interval deserves: one digit of its half width, at least two and at most four."""
    if low is None or high is None or high <= low:
        return 3
    return min(4, max(2, math.ceil(-math.log10((high - low) / 2))))

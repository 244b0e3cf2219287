"""Numbers as a person reads them."""

from __future__ import annotations


def amount(value: int | None) -> str:
    """A count for a person, three digits: ``25.6M``; ``?`` where it is unknown.

    Example:
        >>> amount(25_557_032), amount(115_605_504), amount(999), amount(None)
        ('25.6M', '116M', '999', '?')
    """
    if value is None:
        return "?"
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"
    return str(value)


def short_amount(value: float) -> str:
    """A round number for the scale of a chart: ``50M``, ``2.5k``.

    Example:
        >>> short_amount(50_000_000), short_amount(2500), short_amount(0)
        ('50M', '2.5k', '0')
    """
    text = amount(round(value))
    digits, unit = text.rstrip("kMG"), text.lstrip("0123456789.")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + unit


def times(value: float | None) -> str:
    """A ratio for a person: ``1.97``; ``?`` where it is unknown."""
    return "?" if value is None else f"{value:.2f}"


def sizes(value: int | tuple[int, ...] | None) -> str:
    """A size, or one for each dimension, for a person: ``3``, ``3x1``; ``None`` for none."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def counted(number: int, what: str) -> str:
    """A number of things for a person: ``1 stage``, ``2 stages``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

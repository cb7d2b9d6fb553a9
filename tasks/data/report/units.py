"""Numbers as people read them: shares in percent, sizes in MB, times in minutes. A missing value is an en dash."""

from __future__ import annotations

from typing import Literal

Unit = Literal["share", "bytes", "s", "tokens/s", ""]
Number = int | float

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def as_text(value: Number | None, unit: Unit = "") -> str:
    if value is None:
        return DASH
    match unit:
        case "share":
            text = f"{100 * value:.1f}%"
        case "bytes":
            text = _bytes(value)
        case "s":
            text = _seconds(value)
        case "tokens/s" | "":
            text = _plain(value)
    return _typographic(text)


def as_difference(value: Number | None, unit: Unit = "") -> str:
    """With its sign; shares differ by percentage points. Law: a difference that shows as zero has no sign."""
    if value is None:
        return DASH
    text = f"{100 * abs(value):.1f} pt" if unit == "share" else as_text(abs(value), unit)
    if not any(digit in text for digit in "123456789"):
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def _bytes(value: Number) -> str:
    """Decimal units, as disks and hubs count them."""
    size = float(value)
    for name in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {name}"
        size /= 1000
    return f"{size:,.3g} TB" if abs(size) < 999.5 else f"{size:,.0f} TB"


def _seconds(value: Number) -> str:
    if 0 < abs(value) < 0.0995:
        return f"{1000 * value:.1f} ms"
    if abs(value) < 59.95:
        return f"{value:.2f} s" if abs(value) < 9.995 else f"{value:.1f} s"
    whole = round(value)
    if abs(whole) < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def _plain(value: Number) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if size < 99.9995:
        return f"{value:.3f}"
    return f"{value:,.1f}" if size < 1e6 else f"{value:.3g}"


def _typographic(text: str) -> str:
    return MINUS + text[1:] if text.startswith("-") else text

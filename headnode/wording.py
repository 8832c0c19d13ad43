"""Words of messages, where a number decides."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """`1 package`, `2 packages`; `many` where an s does not do it. Pure."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"

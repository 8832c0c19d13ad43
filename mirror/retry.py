"""How long to wait before upstreams are tried again. Pure.

The pause doubles from round to round, up to a minute, and a random half of it keeps a thousand
mirrors that lost one server at the same moment from coming back at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

FIRST_S = 2.0
LONGEST_S = 60.0

Uniform = Callable[[float, float], float]


def pauses(tries: int, uniform: Uniform) -> Iterator[float]:
    """Give the seconds to wait before each of `tries` rounds, the first of which is 0.

    `uniform(low, high)` gives a random number between the two, as random.uniform does.
    """
    for number in range(tries):
        longest = min(LONGEST_S, FIRST_S * 2 ** (number - 1))
        yield uniform(longest / 2, longest) if number else 0.0

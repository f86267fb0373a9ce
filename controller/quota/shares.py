"""Max-min fair shares: nobody gets more than he wants while another one who wants more has less than he.

Knows numbers only.
"""

from collections.abc import Sequence


def fair_level(wishes: Sequence[tuple[float, float]], capacity: float) -> float:
    """The level up to which wishes are met: everybody gets his wish or this, whichever is less, but his floor at least.

    `wishes` are pairs of floor and wish. The shares add up to the capacity, or to all wishes, or, where even the
    floors are more than the capacity, to these: the level is then 0. Infinity: all wishes fit.
    """
    steps = sorted((at, slope) for floor, wish in wishes if wish > floor for at, slope in ((floor, 1), (wish, -1)))
    used = sum(floor for floor, _ in wishes)
    if used >= capacity:
        return 0.0
    level, rising = 0.0, 0
    for at, slope in steps:
        if rising and used + (at - level) * rising >= capacity:
            return level + (capacity - used) / rising
        used += (at - level) * rising
        level, rising = at, rising + slope
    return float("inf")


def fair_shares(wishes: Sequence[tuple[float, float]], capacity: float) -> list[float]:
    """What everybody gets, in the order of `wishes`: pairs of floor and wish. What is left over is divided evenly."""
    if not wishes:
        return []
    level = fair_level(wishes, capacity)
    shares = [max(floor, min(wish, level)) for floor, wish in wishes]
    rest = capacity - sum(shares)
    if rest <= 0:
        return shares
    return [share + rest / len(shares) for share in shares]

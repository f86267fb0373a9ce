"""Time in whole ticks, made from a clock that may jump. Knows numbers; must not know what they are used for.

Tables that forget by age look at the clock once per message. Against the bounds of the current tick that is one
comparison, and ticks that only ever rise keep a clock that goes backwards from breaking any order.
"""

from math import isfinite


class Ticks:
    """Counts ticks of `seconds`. A hot path compares `start <= now < end` itself and calls `advance` if not.

    A step backwards takes no time: the tick goes on, counted from there. A step forward takes as many ticks as
    it spans, but at most `longest`. A `now` that is not finite is ignored.
    """

    __slots__ = ("count", "end", "longest", "seconds", "start")

    def __init__(self, seconds: float, longest: int) -> None:
        self.seconds = seconds
        self.longest = longest
        self.count = 0
        self.start = self.end = 0.0  # an empty tick: the first call sets it

    def phase(self, now: float) -> float:
        """Seconds since the running tick began, as of `now`, which was taken in."""
        return min(max(0.0, now - self.start), self.seconds)

    def resume(self, now: float, since: float) -> int:
        """Go on with the ticks of another clock, one of which began `since` seconds before `now`: how many have begun
        since. A clock that has ticked already keeps to its own; nothing changes but where its ticks begin."""
        passed = int(since / self.seconds)
        if self.start == self.end:
            self.start = now - (since - passed * self.seconds)
            self.end = self.start + self.seconds
        return passed

    def advance(self, now: float) -> int:
        """Take in the time; how many ticks began since the last call."""
        if self.start <= now < self.end or not isfinite(now):
            return 0
        ended = now - self.end
        if ended < 0.0 or self.start == self.end:
            self.start, self.end = now, now + self.seconds
            return 0
        passed = ended / self.seconds
        if passed < self.longest:
            steps = 1 + int(passed)
            self.start = self.end + (steps - 1) * self.seconds
        else:
            steps = self.longest
            self.start = now
        self.end = self.start + self.seconds
        self.count += steps
        return steps

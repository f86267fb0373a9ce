"""Shares of limits that hold for the whole fleet. Time is an argument, monotonic seconds; only `desk` does I/O.

shares    demand divided fairly: max-min
holdings  what agents may be using, as far as the leader can know; never more than the limit in all
division  one limit and key: who should have how much, and how much of it can be given now
quotas    all of them, for as long as this controller leads
desk      where questions arrive: answered here, or by the controller that leads
"""

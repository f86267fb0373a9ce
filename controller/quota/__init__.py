"""Shares of limits that hold for the whole fleet. No I/O and no clock: time is an argument, monotonic seconds.

shares    demand divided fairly: max-min
holdings  what agents may be using, as far as the leader can know; never more than the limit in all
division  one limit and key: who should have how much, and how much of it can be given now
quotas    all of them, for as long as this controller leads
"""

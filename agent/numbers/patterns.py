"""Small sets of numbers as people write them: exact numbers, prefixes, ranges. For inventories and allow-lists.

A `NumberSet` answers for millions of numbers and costs megabytes; this one answers for a few hundred and costs
what they cost. Both read the same text forms (`agent.numbers.ranges`).
"""

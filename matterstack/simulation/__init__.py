"""A pretended world for the real orchestration: a virtual clock, a run root in memory, operators that lose answers.

The tests search it for histories that break a promise (tests/simulation); a rehearsal of a campaign will use it too.
"""

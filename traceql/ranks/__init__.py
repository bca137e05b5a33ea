"""Several ranks of one job: which traces belong together, their clocks, and who waits for whom.

Everything here works on digests: what one trace is reduced to, small enough to send between machines. The result is the
same whether the digests were made in this process or by workers.
"""

RANK_KEY = "process.{}.rank"
"""Metadata key of the rank that a file with several processes tells of one."""

"""Odd but plausible files, and what every figure of them is held to."""

"""Fuzzing under the guidance of coverage, outside the suite; the corpus it found is run again inside it."""

from pathlib import Path

CORPUS = Path(__file__).parents[1] / "corpus"
"""target → inputs that together reach what fuzzing reached."""

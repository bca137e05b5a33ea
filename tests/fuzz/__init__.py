"""Mutated inputs for everything that reads a file; see REPORT.md."""

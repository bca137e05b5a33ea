"""Collectors: record a run under a profiler."""

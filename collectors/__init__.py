"""Collectors: record a run of SGLang, or of any program, under a profiler.

Only the standard library, click and msgspec are imported here, so that a bare GPU machine can record; torch and sglang
run in child processes and are never imported.
"""

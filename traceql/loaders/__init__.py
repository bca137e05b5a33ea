"""Loaders: one a format, each from a path to a LoadedTrace. ``registry.load`` picks by content, not by file name."""

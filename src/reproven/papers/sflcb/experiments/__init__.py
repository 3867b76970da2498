"""Experiment functions, one file a family of problems; each takes a `Context` and keywords of its budget."""

"""Benchmarks of the harness itself. Those of a paper's method live in the paper."""

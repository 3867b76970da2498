"""Experiment functions of ProGrad, one topic a file."""

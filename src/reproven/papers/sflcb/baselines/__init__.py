"""Methods that the paper compares with, or that are closest to it; each runs on any `BilevelProblem`."""

"""Re-runs the claims of nine machine-learning papers and says, claim by claim, what held."""

__version__ = "0.1.0"

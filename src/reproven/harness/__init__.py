"""What is the same for every paper: composing, running, storing, deciding and tabulating."""

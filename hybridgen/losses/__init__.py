"""Floor 2: mathematics and a network."""

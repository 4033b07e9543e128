"""Floor 5: evaluation."""

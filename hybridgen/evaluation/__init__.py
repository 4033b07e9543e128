"""Floor 5: judgement."""

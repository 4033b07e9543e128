"""What is measured about samples, as pure functions."""

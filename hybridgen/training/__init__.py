"""Floor 4: training loops, checkpoints and run folders."""

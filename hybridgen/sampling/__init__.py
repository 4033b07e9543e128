"""Floor 3: from noise to samples."""

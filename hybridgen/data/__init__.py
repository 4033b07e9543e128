"""Where real examples come from: batches in a stateless order, and a held-out part."""

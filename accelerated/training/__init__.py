"""Training a network: configuration, batches, loop, checkpoints."""

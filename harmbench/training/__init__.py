"""What trained methods and probes share: the training loop, layers, saved weights."""

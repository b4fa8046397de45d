"""Training: examples in, a checkpoint out. The carried ``"tiny"`` checkpoint is made here."""

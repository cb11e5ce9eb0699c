"""The training loop: step, optimiser, schedule, checkpoints, ranks."""

"""Training: strategies, schedules, checkpoints, the loop."""

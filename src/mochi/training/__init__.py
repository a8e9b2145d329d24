"""Training: losses, data, checkpoints, and the world of shapes that nano renders."""

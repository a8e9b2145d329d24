"""What makes the videos: a child process for each device, which owns the model."""

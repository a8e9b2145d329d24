"""What a run takes, what a machine has, and whether the one fits the other."""

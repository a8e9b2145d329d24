"""Sampling: schedules are numbers, solvers are functions, guidance wraps a velocity."""

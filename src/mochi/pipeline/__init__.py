"""Puts the parts together: a prompt in, a video out. The one home of orchestration."""

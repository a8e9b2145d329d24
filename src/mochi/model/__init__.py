"""The networks, on one device: no ranks, no files, no environment.

What happens on many devices, in streams or with other attention arrives from outside, through the
hooks of `mochi.model.exchange`.
"""

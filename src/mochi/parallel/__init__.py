"""One video on many devices: who holds which tokens, and what travels between them.

The networks know nothing of it. Their token exchange, their frame exchange and their attention are
replaced by objects of this package, which give every device the numbers that one device would
compute.
"""

"""How nano, the model inside the package, is trained and measured.

Read `recipe` for the numbers, `vae` and `dit` for the two stages, `evaluate` for the judgement.
"""

"""The nouns: sizes, configs, requests, errors, latent spaces and events.

Nothing here holds a network or touches a file. Only `mochi.core.latents` imports torch.
"""

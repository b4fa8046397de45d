"""Masks for `vqvae`'s training, and how well a codec reproduces them."""

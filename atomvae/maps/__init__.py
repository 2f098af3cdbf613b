"""Latents on the lattice, over space and time."""

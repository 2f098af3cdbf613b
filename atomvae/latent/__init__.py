"""The algebra of the latent space: factors without weights."""

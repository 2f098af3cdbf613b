"""Networks, the model, its training, and what it says of patches."""

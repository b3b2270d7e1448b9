"""The disentangled diffusion autoencoder."""

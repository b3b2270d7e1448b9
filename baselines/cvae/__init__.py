"""The conditional variational autoencoder (Moyer 2020)."""

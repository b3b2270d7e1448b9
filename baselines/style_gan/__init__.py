"""The style-encoding GAN: content from the scan, style from the target site."""

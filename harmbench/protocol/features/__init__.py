"""Features of images that several metrics use."""

"""Features of images that several metrics compare."""

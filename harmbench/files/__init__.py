"""Reading and writing files: whole or not at all, in blocks, from strangers."""

"""The run folder: where a run keeps its data and results, and how they are read."""

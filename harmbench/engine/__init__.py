"""A run as a graph of nodes: keys, nodes, execution."""

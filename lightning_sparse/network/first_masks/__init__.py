"""New masks for a network, and whether its weights are such that random ones make sense."""

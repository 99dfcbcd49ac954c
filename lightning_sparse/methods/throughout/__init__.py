"""Methods that train a sparse network from the first step to the last."""

"""Steps of optimizers: how they are seen, and what optimizers do in them and beside them."""

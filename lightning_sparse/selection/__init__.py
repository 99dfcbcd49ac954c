"""Which weights and layers of a model are chosen, by name, pattern or type."""

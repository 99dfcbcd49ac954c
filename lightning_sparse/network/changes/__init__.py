"""Changes of masks that are more than one recipe for all layers: groups of layers, masks from elsewhere."""

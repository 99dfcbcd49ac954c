"""Masks that there are already: where they are read from, and how they are handed to another network."""

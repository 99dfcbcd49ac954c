"""Errors that say what was expected, what came and what to do about it, and the checks that raise them."""

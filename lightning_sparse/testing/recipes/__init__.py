"""The contract of recipes."""

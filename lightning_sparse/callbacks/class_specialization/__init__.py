"""Class specialization in a run: when it is measured, and what is saved, logged and drawn of it."""

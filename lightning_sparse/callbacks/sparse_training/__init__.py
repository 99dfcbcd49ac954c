"""Sparse training in a Lightning Trainer: when topology updates happen, and what is saved, logged and drawn of them."""

"""What every method must satisfy."""

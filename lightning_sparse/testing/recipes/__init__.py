"""What every recipe must satisfy."""

"""What every sparse-training callback must satisfy."""

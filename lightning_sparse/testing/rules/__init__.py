"""What every pruning, redistribution and growth rule must satisfy."""

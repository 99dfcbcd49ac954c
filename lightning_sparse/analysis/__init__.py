"""What happened: measurements and pictures."""

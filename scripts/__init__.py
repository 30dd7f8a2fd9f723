"""What `make` runs: not part of what is installed."""

"""Benchmarks: ``python -m bench NAME [--quick] --json`` (see README.md here for what each shows and does not show)."""

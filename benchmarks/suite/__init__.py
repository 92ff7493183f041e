"""Benchmarks that asv runs: `make bench`."""

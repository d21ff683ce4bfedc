"""Measurements of lmc_fast and of its peers: `python -m benchmarks.run --help`."""

"""Workloads, measured on Perdure, on the machine below it and on a peer beside it: `python -m benchmarks`."""

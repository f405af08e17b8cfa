"""The comparison of `benchmarks/peers.py`: the entrants, how they are trained and pruned, and how results are measured."""

"""What `benchmarks/peers.py` compares: the entrants, how each is trained and pruned, and how the results are measured."""

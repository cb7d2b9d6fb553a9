"""What benchmarks/merge.py compares: a random model with an adapter, and the programs that bring one into the other."""

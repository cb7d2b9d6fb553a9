"""What benchmarks/registry.py compares: a model version's files on their way to a store and back, the line's way and the peers'."""

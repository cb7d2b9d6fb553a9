"""The parts of benchmarks/train.py: each measures one thing and gives its findings."""

"""The outside world: object store, registry, DVC, git, base models, embedded services."""

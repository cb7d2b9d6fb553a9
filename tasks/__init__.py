"""The steps of the line: one verb a file, each runnable as `python -m tasks.<step>`."""

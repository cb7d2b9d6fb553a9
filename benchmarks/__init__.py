"""What tuneline costs, measured: each script prints a table and, with `--json FILE`, writes it down."""

"""Rows: reading, splits, chat templates and tokens. No torch."""

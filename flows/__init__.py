"""Orchestration: the only place that knows Prefect."""

"""A page of metrics, read over HTTP as Prometheus does."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Page = Mapping[tuple[str, frozenset[str]], float]


def scraped(address: str) -> Page:
    """Every sample: its name and the values of its labels -> its value."""
    with urllib.request.urlopen(address) as answer:
        text = answer.read().decode()
    found = {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert all(name.startswith("tuneline_") for name, _ in found)
    return found


def value(page: Page, name: str, *labels: str) -> float:
    return page[name, frozenset(labels)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

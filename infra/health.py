"""Whether a service answers: python infra/health.py URL. A store that asks for a signature does."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

FORBIDDEN = 403


def problem(url: str) -> str | None:
    """What is wrong, if something is."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310  the address comes from our own compose file
            return None
    except urllib.error.HTTPError as error:
        return None if error.code == FORBIDDEN else f"{url} answers {error.code}"
    except OSError as error:
        return f"{url}: {error}"


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1]))

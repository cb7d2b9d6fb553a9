"""Passwords for a deployment, made once: infra/.env from infra/.env.example, each empty secret filled in.

python -m infra.credentials [--to infra/.env]
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from pathlib import Path

HERE = Path(__file__).parent
EMPTY = re.compile(r"^([A-Z0-9_]+_(?:SECRET|PASSWORD))=$", re.MULTILINE)


def filled(example: str) -> str:
    """Law: lines that say something stay as they are; no two secrets are the same."""
    return EMPTY.sub(lambda match: f"{match[1]}={secrets.token_hex(24)}", example)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the passwords of a deployment.")
    parser.add_argument("--to", type=Path, default=HERE / ".env", help="file to write; one that is there stays")
    to: Path = parser.parse_args().to
    text = filled((HERE / ".env.example").read_text(encoding="utf-8"))
    try:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(
            f"{to} is there already: remove it for new passwords, which the running services don't know",
            file=sys.stderr,
        )
        return 2
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

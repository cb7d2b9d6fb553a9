"""What a format's weights need beside them to be served: the tokenizer and the chat template."""

from __future__ import annotations

import shutil
from pathlib import Path

NAMES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def copy(merged: Path, into: Path) -> None:
    """As they are, where the merged model has them."""
    for name in NAMES:
        if (merged / name).is_file():
            shutil.copyfile(merged / name, into / name)

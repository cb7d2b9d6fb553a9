"""Fetch the base model into the workspace as a plain Hugging Face folder."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core import manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import FetchParams
from tasks.core.step import main
from tasks.data import template_limits
from tasks.storage import bases


def fetch(params: FetchParams, *, out: Path) -> Manifest:
    """Bring the base into `out`: weights as safetensors, tokenizer, chat template. A GGUF file is dequantised once.

    A template of the params replaces the model's own here, so that training, judging and serving all use it.

    ModelError: the base is missing or unusable; nothing is left behind.
    """
    base = bases.find(params.ref, params.revision)
    with manifest.staged(out) as folder:
        match base:
            case bases.HubBase():
                bases.download(base, folder)
            case bases.FolderBase(path):
                bases.copy(path, folder)
            case bases.GgufBase(path):
                from tasks.ml import gguf_base

                gguf_base.dequantise(path, folder)
        template = folder / "chat_template.jinja"
        if params.chat_template is not None:
            template.write_text(params.chat_template, encoding="utf-8")
        if template.is_file():
            template_limits.vet(template.read_text(encoding="utf-8"), (), f"the chat template of {params.ref}")
        bases.check_folder(folder)
        facts = {"ref": params.ref, "revision": params.revision, **bases.describe(folder)}
        return manifest.seal(folder, step="fetch", inputs={}, params=params.model_dump(mode="json"), facts=facts)


if __name__ == "__main__":
    sys.exit(main(fetch))

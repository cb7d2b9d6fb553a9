"""Fetch the base model into the workspace as a plain Hugging Face folder, or a registered version to go on from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tasks.core import events, manifest
from tasks.core.continued import FROZEN, Continued
from tasks.core.errors import ModelError
from tasks.core.manifest import Manifest
from tasks.core.sections import FetchParams
from tasks.core.step import main
from tasks.data import template_limits
from tasks.storage import bases


def fetch(params: FetchParams, *, out: Path) -> Manifest:
    """Bring the base into `out`: weights as safetensors, tokenizer, chat template. A GGUF file is dequantised once.

    With `continue_from` it is that version's merged model, or the base with that version's adapter in the folder `frozen`.
    A template of the params replaces the model's own here, so that training, judging and serving all use it.

    ModelError: the base is missing or unusable, or the version can't be continued; nothing is left behind.
    """
    base = bases.find(params.ref, params.revision)
    with manifest.staged(out) as folder:
        continued = None if params.continue_from is None else _continue(params.continue_from, params, base, folder)
        if continued is None:
            _bring(params, base, folder)
        bases.check_folder(folder)
        facts = {
            "ref": params.ref, "revision": params.revision, "continues": continued and continued.model_dump(),
            "content": bases.content(folder), **bases.describe(folder),
        }  # fmt: skip
        return manifest.seal(folder, step="fetch", inputs={}, params=params.model_dump(mode="json"), facts=facts)


def _bring(params: FetchParams, base: bases.Base, folder: Path) -> None:
    match base:
        case bases.HubBase():
            bases.download(base, folder)
        case bases.FolderBase(path):
            bases.copy(path, folder)
        case bases.GgufBase(path):
            from tasks.ml import gguf_base

            gguf_base.dequantise(path, folder)
    _template(params, folder)


def _template(params: FetchParams, folder: Path) -> None:
    template = folder / "chat_template.jinja"
    if params.chat_template is not None:
        template.write_text(params.chat_template, encoding="utf-8")
    if template.is_file():
        template_limits.vet(template.read_text(encoding="utf-8"), (), f"the chat template of {params.ref}")


def _continue(reference: str, params: FetchParams, base: bases.Base, folder: Path) -> Continued:
    from tasks.ml.lora import plain
    from tasks.storage import checkout, continuing
    from tasks.storage.registry import Registry

    with checkout.connected(os.environ) as environ:
        registry = Registry.open(environ)
        version = continuing.pinned(reference, registry)
        continued = Continued(reference=version.reference, keep=params.keep, data=continuing.learned(version))
        events.note(f"going on from {version.reference}, {params.keep}; it knows the rows up to data v{continued.data}")
        if params.keep == "merged":
            continuing.merged(registry, version, folder)
            _template(params, folder)
            return continued
        _bring(params, base, folder)
        continuing.frozen(registry, version, folder)
    if why := plain.why_not(folder / FROZEN):
        raise ModelError(
            f"fetch.keep=frozen: the adapter of {version.reference} is no plain LoRA: {why}. Set fetch.keep: merged"
        )
    return continued


if __name__ == "__main__":
    sys.exit(main(fetch))

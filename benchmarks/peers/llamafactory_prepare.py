"""LLaMA-Factory's preparation of a file: its `get_dataset`, which converts, tokenizes, masks and packs.

Assistant turns alone are learned, packs keep their rows apart ("neat packing"). The rows are read in its ShareGPT form
with OpenAI's names, as its documentation has it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import sys
import time
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, by an interpreter that knows nothing of this one

from benchmarks.peers import task
from benchmarks.peers.task import Answer, Task

FORM = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
        "system_tag": "system",
    },
}  # fmt: skip
TEMPLATE = "smollm2"
SYSTEM = "<|im_start|>system\n"


def prepare(asked: Task) -> Answer:
    without_sound()
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # pyright: ignore[reportMissingImports]
    from llamafactory.hparams import get_train_args  # pyright: ignore[reportMissingImports]
    from llamafactory.model import load_tokenizer  # pyright: ignore[reportMissingImports]

    model, data, training, _, _ = get_train_args(_arguments(asked))
    loaded = load_tokenizer(model)
    data.default_system = _default_system(loaded["tokenizer"])
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    started = time.perf_counter()
    packs = get_dataset(template, model, data, training, stage="sft", **loaded)["train_dataset"]
    seconds = time.perf_counter() - started
    return _counted(packs, seconds, version("llamafactory"))


def without_sound() -> None:
    """Text needs no torchaudio, but its import must not fail: a build for CUDA does beside a torch for processors."""
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        empty = types.ModuleType("torchaudio")
        empty.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = empty


def _arguments(asked: Task) -> dict[str, Any]:
    folder = asked.out / "data"
    folder.mkdir()
    described = {"rows": {"file_name": str(asked.file), **FORM}}
    (folder / "dataset_info.json").write_text(json.dumps(described), encoding="utf-8")
    return {
        "model_name_or_path": str(asked.base), "dataset": "rows", "dataset_dir": str(folder), "template": TEMPLATE,
        "cutoff_len": asked.max_length, "neat_packing": True, "preprocessing_num_workers": asked.processes,
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "output_dir": str(asked.out / "run"),
        "report_to": "none", "use_cpu": True,
    }  # fmt: skip


def _default_system(tokenizer: Any) -> str:
    """The base's own: the template of the trainer ends it with a full stop, the base's does not."""
    text: str = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    return text.removeprefix(SYSTEM).partition("<|im_end|>")[0] if text.startswith(SYSTEM) else ""


def _counted(packs: Any, seconds: float, version: str) -> Answer:
    import pyarrow.compute as pc

    rows = tokens = learned = 0
    for batch in task.batches(packs.cache_files):
        # A pack of n rows has n + 2 boundaries: it begins with one and always ends in padding, where the mask is 0.
        boundaries = pc.struct_field(batch.column("packing_params"), "sequence_boundaries")  # pyright: ignore
        rows += len(boundaries.flatten()) - 2 * len(batch)
        tokens += task.other_than(batch.column("attention_mask"), 0)
        learned += task.other_than(batch.column("labels"), -100)
    return Answer(version, rows, tokens, learned, len(packs), seconds)


if __name__ == "__main__":
    task.answer(prepare(task.read()))

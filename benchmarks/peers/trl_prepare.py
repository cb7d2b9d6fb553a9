"""TRL's preparation of a file, by the public way: everything that `SFTTrainer(...)` does with its rows before it trains.

Assistant turns alone are learned, packs are filled best-fit decreasing ("bfd", its default) without contamination. The
trainer wants a model: it is given one of a single tiny layer, made before the clock starts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, by an interpreter that knows nothing of this one

from benchmarks.peers import task
from benchmarks.peers.task import Answer, Task

PLAIN = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
MARKED = (
    "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}"
    "{{'\n'}}"
)
"""The same text. TRL finds the assistant's tokens by these marks alone, and brings marked templates for other models."""


def prepare(asked: Task) -> Answer:
    import trl  # pyright: ignore[reportMissingImports]
    from datasets import load_dataset

    tokenizer, config = _tokenizer(asked), _config(asked)
    model = _model(len(tokenizer))
    started = time.perf_counter()
    rows = load_dataset("json", data_files=str(asked.file), split="train")
    trainer = trl.SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    seconds = time.perf_counter() - started
    return _counted(trainer.train_dataset, seconds, trl.__version__)


def _tokenizer(asked: Task) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(asked.base)
    if PLAIN not in tokenizer.chat_template:
        sys.exit(f"{asked.base}: its chat template is not the one of SmolLM2; TRL's masks need marks set by hand")
    tokenizer.chat_template = tokenizer.chat_template.replace(PLAIN, MARKED)
    return tokenizer


def _config(asked: Task) -> Any:
    import trl  # pyright: ignore[reportMissingImports]

    return trl.SFTConfig(
        output_dir=str(asked.out / "run"), max_length=asked.max_length, packing=True, assistant_only_loss=True,
        dataset_num_proc=asked.processes, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip


def _model(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1,
        )
    )  # fmt: skip


def _counted(packs: Any, seconds: float, version: str) -> Answer:
    rows = tokens = learned = 0
    for batch in task.batches(packs.cache_files):
        rows += len(batch.column("seq_lengths").flatten())
        tokens += len(batch.column("input_ids").flatten())
        learned += task.other_than(batch.column("labels"), -100)
    return Answer(version, rows, tokens, learned, len(packs), seconds)


if __name__ == "__main__":
    task.answer(prepare(task.read()))

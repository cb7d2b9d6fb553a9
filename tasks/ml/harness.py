"""Suites that are tasks of the lm-evaluation-harness (Gao et al. 2021): a YAML file with data beside it, nothing fetched.

The model is asked as it is served: a task's prompt is the user's turn, a choice or continuation the answer with the token that
ends it. So figures compare between models here, and not with those of a leaderboard that asks without a chat template.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from tasks.core import digest
from tasks.core.errors import ParamsError
from tasks.core.sections import EvaluateParams
from tasks.data.chatset import Segment
from tasks.data.rows import Message
from tasks.data.suites import Outcome
from tasks.data.tokens import ChatTokenizer

if TYPE_CHECKING:
    from tasks.ml.serving import Served

LOCAL = ("json", "csv", "parquet", "text", "arrow")
KINDS = ("multiple_choice", "loglikelihood", "generate_until")


def path(folder: Path, name: str) -> Path:
    return folder / f"{name}.yaml"


def check(file: Path) -> None:
    """ParamsError: the harness is missing, or the file is no task with data of its own."""
    if find_spec("lm_eval") is None:
        raise ParamsError(f"evaluate.suites: {file} is a task of lm-evaluation-harness: pip install 'tuneline[lmeval]'")
    task = _read(file)
    wanted = {"task": (file.stem,), "dataset_path": LOCAL, "output_type": KINDS}
    for key, known in wanted.items():
        if task.get(key) not in known:
            raise ParamsError(f"{file}: {key} is {task.get(key)!r}; expected {' or '.join(known)}")
    files = list(_leaves((task.get("dataset_kwargs") or {}).get("data_files")))
    missing = [name for name in files if not Path(name).is_file()]
    if missing or not files:
        raise ParamsError(
            f"{file}: dataset_kwargs.data_files names {missing[0] if missing else 'no file'}"
            f"{', which is not there' if missing else ''}: paths are relative to the project's folder"
        )


def outcomes(file: Path, served: Served, tokenizer: ChatTokenizer, params: EvaluateParams) -> list[Outcome]:
    """One a document, its value that of the task's first metric. ParamsError: that metric has no number a document."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(file.parent), include_defaults=False)
    ask: Any = simple_evaluate  # its decorator hides its parameters
    model = _model(served, tokenizer, params)
    made: dict[str, Any] = ask(model=model, tasks=[file.stem], task_manager=manager, bootstrap_iters=0)
    samples = sorted(made["samples"][file.stem], key=lambda sample: sample["doc_id"])
    return [_outcome(file, sample) for sample in samples]


def _outcome(file: Path, sample: Mapping[str, Any]) -> Outcome:
    metric = sample["metrics"][0]
    value = sample[metric]
    if not isinstance(value, int | float):
        raise ParamsError(
            f"{file}: the metric {metric} has no number a document (found {str(value)[:80]!r}): put another first"
        )
    identity = [sample["doc_hash"], sample["prompt_hash"], sample["target_hash"], sample["doc_id"]]
    return Outcome(
        suite=file.stem, id=digest.of_value(identity)[:16], category=metric, language=None,
        prompt=str(sample["arguments"][0][0]), answer=_said(sample["filtered_resps"]), value=float(value),
    )  # fmt: skip


def _said(given: Sequence[Any]) -> str:
    """What was generated; of choices, each one's log-likelihood."""
    return "\n".join(each if isinstance(each, str) else f"{each[0]:.3f}" for each in given)


def _read(file: Path) -> Mapping[str, Any]:
    """The file without running what `!function` names."""

    class Plain(yaml.SafeLoader):
        pass

    Plain.add_multi_constructor("!", lambda *_: None)
    try:
        value = yaml.load(file.read_text(encoding="utf-8"), Plain)  # noqa: S506  a safe loader that skips tags
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ParamsError(f"{file} is no task: expected keys as task, dataset_path, output_type")
    return cast("dict[str, Any]", value)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in cast("list[Any]", list(value.values() if isinstance(value, dict) else value)):
            yield from _leaves(inner)


def _model(served: Served, tokenizer: ChatTokenizer, params: EvaluateParams) -> Any:
    """The served model as the harness asks one."""
    from lm_eval.api.model import LM

    from tasks.ml import generation

    class Asked(LM):  # pyright: ignore[reportUntypedBaseClass]  the harness takes its own kind alone
        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return [likelihood(served, tokenizer, *request.args) for request in requests]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            prompts = [tokenizer.prompt(_turns(request.args[0], "…")) for request in requests]
            texts, _ = generation.answer(served, tokenizer, prompts, params, "evaluate: harness")
            return [
                _cut(text, request.args[1].get("until") or ()) for text, request in zip(texts, requests, strict=True)
            ]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            raise ParamsError("a chat model has no perplexity of whole texts: take the task out of evaluate.suites")

    return Asked()


def likelihood(served: Served, tokenizer: ChatTokenizer, context: str, answer: str) -> tuple[float, bool]:
    """Log-likelihood in nats of the whole answer, the token that ends it too, and whether it is the likeliest at each step."""
    import torch

    from tasks.ml import serving

    encoded = tokenizer.encode(_turns(context, answer))
    row = Segment("", encoded.ids, encoded.loss)
    wanted = serving.targets(row)
    logs = torch.cat([chunk.float().log_softmax(-1).cpu() for chunk in served.logits(row)])
    return logs.gather(1, wanted[:, None]).double().sum().item(), bool((logs.argmax(-1) == wanted).all())


def _turns(context: str, answer: str) -> tuple[Message, Message]:
    if not context.strip() or not answer.strip():
        raise ParamsError(
            "a task of evaluate.suites asks with an empty prompt or offers an empty answer: mend its doc_to_text"
        )
    return Message(role="user", content=context.strip()), Message(role="assistant", content=answer.strip())


def _cut(text: str, ends: Sequence[str]) -> str:
    places = [place for end in ([ends] if isinstance(ends, str) else ends) if end and (place := text.find(end)) >= 0]
    return text[: min(places)] if places else text

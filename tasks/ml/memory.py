"""Out of memory and the way back; the random state that a repeated or resumed step starts from."""

from __future__ import annotations

import math
import resource
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core import events
from tasks.core.sections import Launch
from tasks.data.chatset import Tokens


def is_exhausted(error: BaseException) -> bool:
    """Whether this says that no memory was left: torch has a type for accelerators only."""
    said = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in said or "bad_alloc" in said


def smaller(micro_tokens: int, batch: Sequence[Tokens], model: Any, launch: Launch) -> int:
    """Half of what a forward pass took; when that is one row, activations are computed again, unless the params forbid it.

    MemoryError: even that does not fit.
    """
    longest = max(len(example.ids) for example in batch)
    taken = min(micro_tokens, sum(len(example.ids) for example in batch))
    if taken > longest:
        events.warning(f"out of memory: from here on {taken // 2} tokens a forward pass instead of {taken}")
        return taken // 2
    if model.is_gradient_checkpointing or launch.recompute == "never":
        raise MemoryError(f"with one row of {longest} tokens a forward pass")
    events.warning("out of memory with one row: from here on activations are computed again in the backward pass")
    recompute(model)
    return micro_tokens


def recompute(model: Any) -> None:
    """Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): a layer's activations live only while it is at work."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def held() -> int:
    """Bytes that this process holds: on the GPU where it computes on one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def unread(tensors: Iterable[Tensor]) -> int:
    """Bytes of these that lie in a mapped weights file and were not read yet, so that they are still to be held."""
    if torch.cuda.is_available():
        return 0
    places = [(value.data_ptr(), value.nbytes) for value in tensors]
    return sum(
        max(0, sum(size for place, size in places if start <= place < end) - resident)
        for start, end, resident in _mapped_weights()
    )


def _mapped_weights() -> Iterator[tuple[int, int, int]]:
    """First and last address and resident bytes of each mapping of a weights file."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines())
    for line in lines:
        if line.endswith(".safetensors"):
            start, _, end = line.split()[0].partition("-")
            fields = dict(field.split(":") for field in islice(lines, 4))
            yield int(start, 16), int(end, 16), _kilobytes(fields["Rss"])


def _kilobytes(text: str) -> int:
    return int(text.split()[0]) * 1024


def room(processes: int = 1) -> float:
    """Bytes that each of so many processes may still take: what the machine, the container and `ulimit -v` leave."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    found = [_kilobytes(line.split(":")[1]) for line in meminfo if line.startswith("MemAvailable:")]
    found += _container()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    own = limit - pages * resource.getpagesize() if limit != resource.RLIM_INFINITY else math.inf
    return max(0.0, min([size / processes for size in found] + [own]))


def _container(root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What the memory limit of a container leaves; file pages that the kernel would drop count as free."""
    places = (
        (root / "memory.max", root / "memory.current"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
    )
    for limit, used in places:
        if limit.exists() and (text := limit.read_text(encoding="ascii").strip()) != "max":
            stat = (limit.parent / "memory.stat").read_text(encoding="ascii").splitlines()
            inactive = dict(line.split() for line in stat)["inactive_file"]
            yield int(text) - int(used.read_text(encoding="ascii")) + int(inactive)


def random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def fingerprint(value: Tensor) -> int:
    """CRC-32 of the tensor's bytes."""
    return zlib.crc32(value.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().tobytes())

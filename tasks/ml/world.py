"""The processes that train together: which one this is, its share of the work, sums over all of them.

Data parallelism without a wrapper: every process holds equal weights, computes the gradients of its share of a step's
rows, and one sum of the float32 gradients a step makes all of them move alike. As losses are summed over targets and
divided by the number of targets of all processes, the step is that of one process with the whole batch; the mean of
each process's mean, which averaging wrappers take (Li et al. 2020, arXiv 2006.15704), is that only where all have
equally many targets.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.ml import loading, memory

Item = TypeVar("Item")

BUCKET = 16 << 20
"""Numbers that are summed in one exchange: 64 MB."""


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`. A world of one does nothing and imports nothing of torch.distributed."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls, processes: int) -> World:
        """As torchrun tells it, where several processes are wanted: else its variables are somebody else's."""
        return (
            ALONE if processes == 1 else cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
        )

    @property
    def is_first(self) -> bool:
        """The one process that writes."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Generator[World]:
        """Connected to the others within the block: over NCCL where each has a GPU of its own, else over gloo."""
        if self.size == 1:
            yield self
            return
        import torch.distributed as dist

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield self
        finally:
            dist.destroy_process_group()

    def shares(self, items: Sequence[Item], weight: Callable[[Item], int]) -> list[list[Item]]:
        """The items of each process, in their order: the heaviest first to whoever has the least so far.

        Law: every item is in one share; a function of its arguments and `size` alone.
        """
        loads, chosen = [0] * self.size, list[list[int]]([] for _ in range(self.size))
        for place in sorted(range(len(items)), key=lambda place: -weight(items[place])):
            least = loads.index(min(loads))
            loads[least] += weight(items[place])
            chosen[least].append(place)
        return [[items[place] for place in sorted(places)] for places in chosen]

    def totals(self, *numbers: float) -> list[float]:
        """Each number summed over all processes, in float64."""
        if self.size == 1:
            return list(numbers)
        return self._sum(torch.tensor(numbers, dtype=torch.float64, device=loading.device())).tolist()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in some process."""
        return [total > 0 for total in self.totals(*flags)]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum each parameter's gradient over all processes; what has none in all of them keeps none."""
        if self.size == 1:
            return
        parameters = list(parameters)
        reached = self.any(*(parameter.grad is not None for parameter in parameters))
        bucket: list[Tensor] = []
        for parameter in (parameter for parameter, hit in zip(parameters, reached, strict=True) if hit):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(gradient.numel() for gradient in bucket) >= BUCKET:
                self._sum_together(bucket)
                bucket = []
        if bucket:
            self._sum_together(bucket)

    def _sum_together(self, tensors: Sequence[Tensor]) -> None:
        flat = self._sum(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def _sum(self, tensor: Tensor) -> Tensor:
        import torch.distributed as dist

        dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Until all are here."""
        self.totals(0.0)

    @contextmanager
    def first_alone(self) -> Generator[None]:
        """The block is run by the first process, and only then by the others."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def check_equal(self, numbers: Sequence[int], what: str) -> None:
        """ModelError: some process has other numbers than the first one."""
        mine = zlib.crc32(repr(numbers).encode())
        [first] = self.totals(mine if self.is_first else 0)
        if self.any(first != mine) == [True]:
            raise ModelError(f"{what} differ between the processes: start again; if it stays so, use one process")

    @contextmanager
    def own_noise(self) -> Generator[None]:
        """Within the block the random numbers are this process's own; after it all stand at a common place again.

        So a checkpoint holds one random state, from which any number of processes resume.
        """
        if self.size == 1:
            yield
            return
        seed = int(torch.randint(2**62, ()).item())
        common = memory.random_state()
        torch.manual_seed(seed + self.rank)
        yield
        memory.set_random_state(common)


ALONE = World()

"""Checkpoints that survive a kill at any moment: staged, flushed, renamed, with their digests; the newest whole one counts.

HF Trainer writes in place and resumes from the highest number, so a kill during a save leaves a run
that can't resume; here a folder without a manifest does not exist, and a damaged one is passed over.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.core import disk, events, manifest
from tasks.core.errors import IntegrityError, ResourceError, from_os_error
from tasks.ml import loading

KEPT = 2


@dataclass(frozen=True)
class State:
    """Everything that the steps after `step` read: tensors, and plain JSON values."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors called `NAME.…`, without that beginning."""
        return part(self.tensors, name)


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


class Checkpoints:
    """The checkpoints of one piece of work, in `folder`; `seconds` between two saves."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self._seconds = folder, seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._seconds

    def save(self, state: State) -> None:
        """Law: after a kill during a save the checkpoint before is still there and whole.

        Where the disk takes none, that one stays, a warning says so, and the training goes on.
        """
        self._last = time.monotonic()
        try:
            self._write(state)
        except OSError as error:
            events.warning(f"no checkpoint of step {state.step}: {from_os_error(error, 'it could not be written')}")
            return
        for old in self._found()[:-KEPT]:
            shutil.rmtree(old)

    def _write(self, state: State) -> None:
        with manifest.staged(self.folder / f"step-{state.step:08}") as partial:
            with loading.writing(partial):
                save_file(
                    {name: value.contiguous() for name, value in state.tensors.items()}, partial / "state.safetensors"
                )
            (partial / "state.json").write_text(json.dumps(state.values), encoding="utf-8")
            manifest.seal(partial, step="train", inputs={}, params={}, facts={"step": state.step})

    def check_room(self, *, adapter: int, checkpoint: int) -> None:
        """Before the first step: bytes of what is written in the end, and of one checkpoint on the way there.

        ResourceError: the disk will not even hold the adapter. Of too little for checkpoints a warning tells.
        """
        free = disk.free(self.folder)
        if free < adapter:
            raise ResourceError(
                f"{self.folder}: the trained adapter takes {adapter / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free: "
                "free some space, then run the same command again"
            )
        if free < (KEPT + 1) * checkpoint:
            events.warning(
                f"{self.folder}: {free / 1e6:.0f} MB are free, and checkpoints take up to {(KEPT + 1) * checkpoint / 1e6:.0f} "
                "MB: what does not fit is left out, and a killed training starts from further back"
            )

    def newest(self) -> State | None:
        """The newest whole checkpoint; a damaged one is named, passed over and removed."""
        for folder in reversed(self._found()):
            try:
                sealed = manifest.verify(folder)
            except IntegrityError as error:
                events.warning(f"checkpoint passed over and removed: {error}")
                shutil.rmtree(folder)
                continue
            values = json.loads((folder / "state.json").read_bytes())
            return State(sealed.facts["step"], load_file(folder / "state.safetensors"), values)
        return None

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.suffix not in (".partial", ".old"))

"""What a GGUF file says about its model, each fact with the type and range that it must have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn, cast

from tasks.ml.gguf_base.reader import Gguf, refuse

SIDE = 1 << 24
"""More than any model's width, window or vocabulary."""


@dataclass(frozen=True)
class Facts:
    """Typed access to the metadata; `.name` stands for `<architecture>.name`. ModelError: absent, or not of that type."""

    gguf: Gguf

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    def has(self, key: str) -> bool:
        return self._key(key) in self.gguf.values

    def refuse(self, what: str) -> NoReturn:
        refuse(self.gguf.file, what)

    def whole(self, key: str, *, least: int = 1, most: int = SIDE) -> int:
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(f"{self._key(key)} is {_shown(value)}, not a whole number from {least} to {most}")
        return value

    def real(self, key: str) -> float:
        """Positive and finite."""
        value = self._value(key)
        if not isinstance(value, float) or not math.isfinite(value) or value <= 0:
            self.refuse(f"{self._key(key)} is {_shown(value)}, not a positive number")
        return value

    def flag(self, key: str) -> bool:
        value = self._value(key)
        if not isinstance(value, bool):
            self.refuse(f"{self._key(key)} is {_shown(value)}, not true or false")
        return value

    def text(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str):
            self.refuse(f"{self._key(key)} is {_shown(value)}, not a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._value(key)
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            self.refuse(f"{self._key(key)} is not a list of texts")
        return cast("tuple[str, ...]", value)

    def wholes(self, key: str) -> tuple[int, ...]:
        value = self._value(key)
        if not isinstance(value, tuple) or not all(isinstance(item, int) for item in value):
            self.refuse(f"{self._key(key)} is not a list of whole numbers")
        return cast("tuple[int, ...]", value)

    def _key(self, key: str) -> str:
        return self.architecture + key if key.startswith(".") else key

    def _value(self, key: str) -> object:
        name = self._key(key)
        if name not in self.gguf.values:
            self.refuse(f"it lacks {name}")
        return self.gguf.values[name]


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."

"""Images by reference: `<image>` in the text, or an image part without an address, stands for the next of `images`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.data.formats import fields
from tasks.data.formats.unfit import Unfit

PLACEHOLDER = "<image>"


def of(value: Mapping[str, Any]) -> list[str]:
    """The row's `images`, or its one `image`. Unfit: other media, whose words would be learned without them."""
    for key in ("videos", "audios", "video", "audio"):
        if value.get(key):
            raise Unfit("image", f"{key}: only images are supported beside text")
    found: Any = value.get("images") if value.get("images") is not None else value.get("image")
    return [reference(item, "images") for item in (found if isinstance(found, list) else [found]) if item is not None]


def reference(found: object, where: str) -> str:
    """A path or address: text, or an object with `url` or `path`. Unfit: the image's bytes stand in the row."""
    if isinstance(found, Mapping):
        found = found.get("url") or found.get("path")
    if not isinstance(found, str) or not found.strip():
        raise Unfit("image", f"{where}: expected an image's path or address, found {fields.kind_of(found)}")
    if found.startswith("data:"):
        raise Unfit("image", f"{where}: the image's bytes stand in the row; keep it in a file and name its path")
    return found


def place(messages: list[dict[str, Any]], images: list[str]) -> None:
    """Put the images where they belong, in order. Unfit: there are more places than images, or fewer."""
    left, places = iter(images), 0
    for message in messages:
        content = message.get("content", "")
        if isinstance(content, str) and not (images and PLACEHOLDER in content):
            continue
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts = list(_spread(parts)) if images else parts
        empty = [part for part in parts if part.get("image", "") is None]
        places += len(empty)
        for part in empty:
            part["image"] = next(left, None)
        message["content"] = parts
    if places != len(images):
        raise Unfit("image", f"the row has {len(images)} images, and {places} places for them in its messages")


def _spread(parts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for part in parts:
        if part["type"] != "text":
            yield part
            continue
        for number, piece in enumerate(part["text"].split(PLACEHOLDER)):
            if number:
                yield {"type": "image", "image": None}
            if piece:
                yield {"type": "text", "text": piece}

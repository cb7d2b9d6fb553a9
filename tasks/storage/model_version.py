"""What a registered model version is: a manifest that stands on its own, and the names by which one asks for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from tasks.core import digest
from tasks.core.errors import DataError, IntegrityError, ParamsError
from tasks.core.manifest import FileEntry
from tasks.core.sections import Name

Number = Annotated[int, Field(ge=1)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=256)]

LATEST = "latest"

_NAME = TypeAdapter[str](Name)
_ALIAS = re.compile(r"(?!latest$|v[0-9]+$)[a-z][a-z0-9._-]{0,62}")
_NUMBER = re.compile(r"v([1-9][0-9]{0,8})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Stored(BaseModel):
    """A value that lies in the registry as one small JSON object. Law: `parse(T, v.to_bytes(), …) == v`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


class Version(Stored):
    """Version `number` of the model `name`, immutable once it is registered.

    `identity` names the work that made it: publishing the same identity again is the same version.
    `files` maps a plain relative path to its bytes; `record` is the lineage, any JSON. Signatures cover `to_bytes`, so a
    field that is added here must leave the bytes of older versions as they are.
    """

    name: Name
    number: Number
    identity: Line
    created: AwareDatetime
    files: Annotated[dict[str, FileEntry], Field(min_length=1)]
    record: dict[str, JsonValue]

    @field_validator("files")
    @classmethod
    def _stays_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name, entry in files.items():
            _check_path(name, files)
            # The digest becomes part of a key, so it must not climb either.
            if not _SHA256.fullmatch(entry.sha256) or entry.size < 0:
                raise ValueError(f"{name!r} has no SHA-256 in hex and size in bytes")
        return files

    @property
    def reference(self) -> str:
        return f"{self.name}@v{self.number}"

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    @property
    def digests(self) -> set[str]:
        """Of its blobs: equal files are one."""
        return {entry.sha256 for entry in self.files.values()}

    @property
    def parts(self) -> list[str]:
        """Top folders of the version: `adapter`, `merged`, a format."""
        return sorted({name.partition("/")[0] for name in self.files if "/" in name})

    def select(self, part: str | None) -> dict[str, FileEntry]:
        """The files of a part by their path inside it; with None all files as they are."""
        if part is None:
            return dict(self.files)
        if part not in self.parts:
            raise ParamsError(f"{self.reference} has no part {part!r}; it has: {', '.join(self.parts) or 'no parts'}")
        prefix = f"{part}/"
        return {name.removeprefix(prefix): entry for name, entry in self.files.items() if name.startswith(prefix)}


def _check_path(name: str, files: Mapping[str, FileEntry]) -> None:
    path = PurePosixPath(name)
    plain = str(path) == name and name != "." and name.isprintable() and "\\" not in name
    if not plain or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the path {name!r} is not a plain relative path")
    for parent in path.parents:
        if str(parent) in files:
            raise ValueError(f"{str(parent)!r} is both a file and the folder of {name!r}")


@dataclass(frozen=True)
class Reference:
    """What a user calls a version: `NAME@vN`; `NAME@ALIAS`; `NAME` or `NAME@latest`, the newest.

    Law: `parse_reference(str(r)) == r`.
    """

    name: str
    number: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        version = f"v{self.number}" if self.number is not None else self.alias
        return f"{self.name}@{version}" if version else self.name


def parse_reference(text: str) -> Reference:
    """Read `NAME`, `NAME@latest`, `NAME@vN` or `NAME@ALIAS`; ParamsError for anything else."""
    name, at, version = text.partition("@")
    check_name(name)
    if number := _NUMBER.fullmatch(version):
        return Reference(name, number=int(number[1]))
    if _ALIAS.fullmatch(version):
        return Reference(name, alias=version)
    if at and version != LATEST:
        raise ParamsError(
            f"{text!r} names no version: write NAME for the newest, NAME@v3 for the third, or NAME@ALIAS, "
            "for instance NAME@champion"
        )
    return Reference(name)


def number_in(file_name: str) -> int | None:
    """N of `vN.json`; None for any other spelling."""
    match = _NUMBER.fullmatch(file_name.removesuffix(".json")) if file_name.endswith(".json") else None
    return int(match[1]) if match else None


def is_name(text: str) -> bool:
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


def check_alias(text: str) -> str:
    """The alias itself; ParamsError if it could not be one."""
    if not _ALIAS.fullmatch(text):
        raise ParamsError(
            f"{text!r} is no alias: 1 to 63 lower-case letters, digits, dots, underscores or hyphens, the first a "
            "letter; neither latest nor v3, which are versions"
        )
    return text


def check_name(text: str) -> str:
    """The model name itself; ParamsError if it could not be one."""
    if not is_name(text):
        raise ParamsError(
            f"{text!r} is no model name: 1 to 63 lower-case letters, digits, dots, underscores or hyphens, "
            "the first a letter or a digit"
        )
    return text


def draft(
    name: str, files: Mapping[str, FileEntry], identity: str, record: Mapping[str, Any], created: datetime
) -> Version:
    """A version that has no number of its own yet (it says 1); DataError where it could not be one.

    Law: what can be drafted can be read back, for it is read from its own JSON.
    """
    value = {
        "name": check_name(name),
        "number": 1,
        "identity": identity,
        "created": created.isoformat(),
        "files": {path: entry.model_dump() for path, entry in files.items()},
        "record": dict(record),
    }
    try:
        version = Version.model_validate_json(digest.canonical_json(value))
    except ValidationError as error:
        raise DataError(f"{name} can't be published: {_complaint(error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the record of {name} is not JSON: {error}: give it plain values only") from None
    return version.model_copy(update={"created": version.created.astimezone(UTC)})


S = TypeVar("S", bound=Stored)


def stated(kind: type[S], **fields: Any) -> S:
    """A value of what the user typed; ParamsError, naming the field, where it could not be one."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise ParamsError(f"{_complaint(error)}: mend that, then run the command again") from None


def parse(kind: type[S], data: bytes, where: str) -> S:
    """The value that `to_bytes` wrote; IntegrityError, naming `where`, for any other bytes."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"{where} is damaged: {_complaint(error)}: restore it from a backup") from None


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    path = ".".join(map(str, first["loc"][:4]))
    return f"{path}: {first['msg']}".removeprefix(": ").replace("Value error, ", "")

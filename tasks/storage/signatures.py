"""Signatures of versions, and whose of them count.

models/<name>/signatures/v<N>-<key id>.json     immutable; what one key signed of a version (tasks/storage/signing.py)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from tasks.core.errors import ConflictError, IntegrityError
from tasks.storage import blobs, keys, signing
from tasks.storage.audit import Audit, LogEntry
from tasks.storage.keys import PrivateKey, PublicKey
from tasks.storage.model_version import Version
from tasks.storage.store import Store

_FILE = re.compile(r"v[1-9][0-9]*-([0-9a-f]{16})\.json")


@dataclass(frozen=True)
class Signature:
    """One that lies there. `key_id`: of the key by the object's name; `problem`: why it counts for nothing, None if it
    fits; `trusted`: whether its key is, None where nobody said which are."""

    key_id: str
    problem: str | None
    trusted: bool | None


@dataclass(frozen=True)
class Signatures:
    """`trusted`: the keys whose signatures count; None: nobody asks for one.

    Every method may raise the store's errors.
    """

    store: Store
    trusted: tuple[PublicKey, ...] | None

    def sign(self, version: Version, key: PrivateKey, *, who: str, now: datetime) -> bool:
        """Sign a version as it is; whether this key had not signed it before. IntegrityError: what it had is damaged."""
        place = _key(version, key.public.id)
        try:
            self.store.create(place, signing.sign(version, key))
        except ConflictError:
            self._check(version, key.public.id)
            return False
        why = f"key {key.public.id}"
        entry = LogEntry(at=now.astimezone(UTC), action="sign", who=who, version=version.number, why=why)
        Audit(self.store, version.name).append(entry)
        return True

    def of(self, version: Version) -> list[Signature]:
        """All of a version's, by the ids of their keys."""
        return blobs.each(lambda key_id: self._look(version, key_id), self._ids(version))

    def require(self, version: Version) -> None:
        """Law: it returns only if nobody asks for a signature, or a trusted key signed exactly this value of the version.

        IntegrityError: none did.
        """
        if self.trusted is None:
            return
        found = self.of(version)
        if any(signature.trusted for signature in found):
            return
        told = [signature.problem or f"the key {signature.key_id} is not trusted" for signature in found]
        raise IntegrityError(
            f"{version.reference} has no valid signature of a key in {keys.TRUSTED} ({'; '.join(told) or 'it has none'}): "
            f"tuneline models sign {version.reference} makes one, if you know that it is whole"
        )

    def bundle(self, version: Version, part: str | None) -> bytes:
        """A valid signature of all files or a part as other tools read it: a trusted key's where some are.

        IntegrityError: none is valid. ParamsError: there is no such part.
        """
        version.select(part)
        self.require(version)
        valid = [each for each in self.of(version) if each.problem is None and each.trusted in (None, True)]
        if not valid:
            raise IntegrityError(
                f"{version.reference} has no valid signature: tuneline models sign {version.reference} makes one"
            )
        place = _key(version, valid[0].key_id)
        return signing.bundle(self.store.whole(place), version, part or signing.WHOLE, self.store.at(place))

    def _ids(self, version: Version) -> list[str]:
        prefix = f"{_folder(version)}v{version.number}-"
        names = sorted(key.removeprefix(_folder(version)) for key in self.store.keys(prefix))
        return [match[1] for name in names if (match := _FILE.fullmatch(name))]

    def _look(self, version: Version, key_id: str) -> Signature:
        try:
            key = self._check(version, key_id)
        except IntegrityError as error:
            return Signature(key_id, str(error), None if self.trusted is None else False)
        return Signature(key_id, None, None if self.trusted is None else key in self.trusted)

    def _check(self, version: Version, key_id: str) -> PublicKey:
        place = _key(version, key_id)
        key = signing.check(self.store.whole(place), version, self.store.at(place))
        if key.id != key_id:
            raise IntegrityError(
                f"{self.store.at(place)} is of the key {key.id}: restore it from a backup, or delete it"
            )
        return key


def _folder(version: Version) -> str:
    return f"models/{version.name}/signatures/"


def _key(version: Version, key_id: str) -> str:
    return f"{_folder(version)}v{version.number}-{key_id}.json"

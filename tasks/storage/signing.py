"""What a signature of a version says, in the format of OpenSSF's model-signing (v1.0), so that `model_signing` checks it too.

A Sigstore bundle (v0.3) holds a DSSE envelope, which holds an in-toto statement: every file by path and SHA-256, below one
digest of them all. One bundle is of the whole version, and one of each part by the paths inside it, as `models pull` brings
it. Each says in `predicate.tuneline`, which other tools pass over, what version it is of and the digest of its manifest:
so the lineage is signed as well, and a signature passes for no other number.

Law: a version and a key leave only the signatures' own bytes open. `check` makes everything else anew and compares, so
whatever was altered is refused, and nothing that a bundle claims is believed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath

from pydantic import JsonValue

from tasks.core import digest
from tasks.core.errors import IntegrityError
from tasks.core.sections import Name
from tasks.storage.keys import PrivateKey, PublicKey
from tasks.storage.model_version import Number, Stored, Version, parse

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
WHOLE = "all"
"""The bundle of all files, by their paths in the version."""


class Signed(Stored):
    """The signatures that one key made of version `version`. `key`: its public half in PEM; `bundles`: WHOLE and each part."""

    name: Name
    version: Number
    key: str
    bundles: dict[str, JsonValue]


def sign(version: Version, key: PrivateKey) -> bytes:
    made = {part: key.sign(_signed_bytes(statement(version, part))) for part in _parts(version)}
    return _of(version, key.public, made).to_bytes()


def check(data: bytes, version: Version, where: str) -> PublicKey:
    """The key that signed exactly this version; whether it is trusted is another question.

    IntegrityError: the data or the version was altered, or they do not belong together.
    """
    signed = parse(Signed, data, where)
    try:
        key = PublicKey.of_pem(signed.key.encode())
        made = {part: _signature(bundle) for part, bundle in signed.bundles.items()}
    except ValueError:
        raise _misfit(version, where) from None
    if made.keys() != set(_parts(version)) or _of(version, key, made).to_bytes() != data:
        raise _misfit(version, where)
    if not all(key.made(made[part], _signed_bytes(statement(version, part))) for part in made):
        raise _misfit(version, where)
    return key


def bundle(data: bytes, version: Version, part: str, where: str) -> bytes:
    """The bundle of WHOLE or a part, for other tools, once all was checked. IntegrityError: as `check`."""
    check(data, version, where)
    return digest.canonical_json(parse(Signed, data, where).bundles[part]) + b"\n"


def statement(version: Version, part: str) -> bytes:
    """What is signed. The order of the files is model-signing's own: by the folders and names of their paths."""
    files = version.select(None if part == WHOLE else part)
    paths = sorted(files, key=PurePosixPath)
    root = hashlib.sha256(b"".join(bytes.fromhex(files[path].sha256) for path in paths)).hexdigest()
    return digest.canonical_json({
        "_type": STATEMENT_TYPE,
        "subject": [{"name": version.reference, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": path, "algorithm": "sha256", "digest": files[path].sha256} for path in paths],
            "tuneline": {
                "name": version.name, "version": version.number, "part": part,
                "manifest": digest.of_bytes(version.to_bytes()),
            },
        },
    })  # fmt: skip


def _parts(version: Version) -> list[str]:
    return [WHOLE, *(part for part in version.parts if part != WHOLE)]


def _of(version: Version, key: PublicKey, made: Mapping[str, bytes]) -> Signed:
    bundles = {part: _bundle(statement(version, part), signature, key) for part, signature in made.items()}
    return Signed(name=version.name, version=version.number, key=key.pem.decode(), bundles=bundles)


def _bundle(payload: bytes, signature: bytes, key: PublicKey) -> JsonValue:
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": digest.of_bytes(key.pem)}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md"""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def _signature(bundle: JsonValue) -> bytes:
    """ValueError: there is none."""
    match bundle:
        case {"dsseEnvelope": {"signatures": [{"sig": str(text)}]}}:
            return base64.b64decode(text, validate=True)
        case _:
            raise ValueError("no signature")


def _misfit(version: Version, where: str) -> IntegrityError:
    return IntegrityError(
        f"{where} is no signature of {version.reference} as it is: one of the two was altered: restore it from a backup, "
        f"or delete that object and sign again (tuneline models sign {version.reference})"
    )

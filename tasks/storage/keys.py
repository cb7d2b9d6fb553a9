"""Keys of signatures: EC P-256, in PEM files that the environment names. The only module that knows `cryptography`.

    TUNELINE_SIGNING_KEY          the file of the private key that signs what is published
    TUNELINE_SIGNING_PASSPHRASE   what opens it, if it is encrypted
    TUNELINE_TRUSTED_KEYS         a file or a folder of public keys: what leaves the registry needs a signature of one

No message and no `repr` holds anything of a private key or its passphrase.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.core import digest, events
from tasks.core.errors import ParamsError

SIGNING, PASSPHRASE, TRUSTED = "TUNELINE_SIGNING_KEY", "TUNELINE_SIGNING_PASSPHRASE", "TUNELINE_TRUSTED_KEYS"
PRIVATE_FILE, PUBLIC_FILE = "private.pem", "public.pem"
MAKE = "tuneline models keygen --to FOLDER makes a pair"

_ALGORITHM = ec.ECDSA(hashes.SHA256())
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True)
class PublicKey:
    """`der`: its SubjectPublicKeyInfo. Law: keys are equal if and only if these bytes are."""

    der: bytes

    @classmethod
    def of_pem(cls, data: bytes) -> PublicKey:
        """ValueError: it is no EC P-256 key in PEM."""
        try:
            key = serialization.load_pem_public_key(data)
        except UnsupportedAlgorithm as error:
            raise ValueError(str(error)) from None
        return _public(_on_curve(key, ec.EllipticCurvePublicKey))

    @property
    def id(self) -> str:
        """What people and file names call it: a short name, not a proof."""
        return digest.of_bytes(self.der)[:16]

    @property
    def pem(self) -> bytes:
        return self._loaded.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )  # fmt: skip

    def made(self, signature: bytes, data: bytes) -> bool:
        """Whether its private key signed exactly this data."""
        try:
            self._loaded.verify(signature, data, _ALGORITHM)
        except InvalidSignature:
            return False
        return True

    @property
    def _loaded(self) -> ec.EllipticCurvePublicKey:
        return _on_curve(serialization.load_der_public_key(self.der), ec.EllipticCurvePublicKey)


@dataclass(frozen=True)
class PrivateKey:
    """What signs."""

    public: PublicKey
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, _ALGORITHM)


def signer(environ: Mapping[str, str]) -> PrivateKey | None:
    """The key that `TUNELINE_SIGNING_KEY` names. ParamsError: it can't be used. Warns of a file that others can read."""
    if (file := _path(environ, SIGNING)) is None:
        return None
    data = _read(file, SIGNING)
    encrypted, passphrase = b"ENCRYPTED" in data, environ.get(PASSPHRASE)
    if encrypted and not passphrase:
        raise ParamsError(f"{SIGNING}: {file} is encrypted: set {PASSPHRASE} to what opens it")
    try:
        loaded = serialization.load_pem_private_key(data, passphrase.encode() if encrypted and passphrase else None)
        key = _on_curve(loaded, ec.EllipticCurvePrivateKey)
    except _OtherKey as error:
        raise ParamsError(f"{SIGNING}: {file} is {error}, and EC P-256 is what signs: {MAKE}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = f"does not open with {PASSPHRASE}, or is damaged" if encrypted else "is no private key in PEM"
        raise ParamsError(f"{SIGNING}: {file} {what}: name another file ({MAKE})") from None
    if file.stat().st_mode & 0o077:
        events.warning(f"{SIGNING}: {file} can be read by others: chmod 600 {file}")
    return PrivateKey(_public(key.public_key()), key)


def trusted(environ: Mapping[str, str]) -> tuple[PublicKey, ...] | None:
    """The keys that `TUNELINE_TRUSTED_KEYS` names, None where it is not set. ParamsError: there is none, or a bad one."""
    if (place := _path(environ, TRUSTED)) is None:
        return None
    files = sorted(place.glob("*.pem")) if place.is_dir() else [place]
    if not files:
        raise ParamsError(f"{TRUSTED}: {place} holds no *.pem: put public keys there, or name a file ({MAKE})")
    return tuple(key for file in files for key in _keys_in(file))


def make(folder: Path, passphrase: str | None) -> tuple[Path, Path, PublicKey]:
    """A new pair: the private file, for its owner alone, the public file, the key. ParamsError: one is there already."""
    files = (folder / PRIVATE_FILE, folder / PUBLIC_FILE)
    if found := [file for file in files if os.path.lexists(file)]:
        raise ParamsError(f"{found[0]} exists, and a key that was replaced is lost: choose another folder")
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = _public(key.public_key())
    folder.mkdir(parents=True, exist_ok=True)
    for file, data, mode in ((files[0], private, 0o600), (files[1], public.pem, 0o644)):
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            out.write(data)
    return *files, public


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    """A value that is a key itself is not repeated."""
    value = environ.get(name)
    if value is None:
        return None
    if not value.strip() or "\n" in value or "PRIVATE KEY" in value:
        what = "holds a key" if value.strip() else "is empty"
        raise ParamsError(f"{name} {what}: set it to the path of a PEM file, or unset it")
    return Path(value)


def _read(file: Path, variable: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ParamsError(f"{variable}: {file} can't be read ({error.strerror}): name a PEM file ({MAKE})") from None


def _keys_in(file: Path) -> list[PublicKey]:
    data = _read(file, TRUSTED)
    if b"PRIVATE KEY" in data:
        raise ParamsError(f"{TRUSTED}: {file} is a private key: name public keys alone, and keep that one elsewhere")
    try:
        found = [PublicKey.of_pem(block) for block in _PUBLIC.findall(data)]
    except ValueError as error:
        what = error if isinstance(error, _OtherKey) else "damaged"
        raise ParamsError(f"{TRUSTED}: {file} is {what}, and EC P-256 is what signs: {MAKE}") from None
    if not found:
        raise ParamsError(f"{TRUSTED}: {file} holds no public key in PEM: {MAKE}")
    return found


class _OtherKey(ValueError):
    """A key of another kind than EC P-256, which the message names."""


K = TypeVar("K", ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey)


def _on_curve(key: object, kind: type[K]) -> K:
    if not isinstance(key, kind):
        raise _OtherKey(f"a key of another kind ({type(key).__name__.lstrip('_')})")
    if not isinstance(key.curve, ec.SECP256R1):
        raise _OtherKey(f"an EC key on {key.curve.name}")
    return key


def _public(key: ec.EllipticCurvePublicKey) -> PublicKey:
    return PublicKey(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))

"""Keys: what can't be used is one sentence, and no sentence gives a secret away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tasks.core import events
from tasks.core.errors import ParamsError
from tasks.storage import keys
from tests.signers import pair, signer

SECRET = "open sesame"


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


RSA, LARGE = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())


class Told:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def emit(self, kind: str, fields: dict[str, str]) -> None:
        self.warnings += [fields["text"]] if kind == "warning" else []


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    sink = Told()
    monkeypatch.setattr(events, "_sink", sink)
    return sink


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_pair_signs_and_is_its_owners_alone(tmp_path: Path, told: Told, passphrase: str | None) -> None:
    environ = pair(tmp_path / "keys", passphrase)
    key, trusted = keys.signer(environ), keys.trusted(environ)
    assert key and trusted == (key.public,)
    assert trusted[0].made(key.sign(b"data"), b"data")
    assert not trusted[0].made(key.sign(b"data"), b"date") and not trusted[0].made(b"", b"data")
    private = Path(environ[keys.SIGNING])
    assert private.stat().st_mode & 0o777 == 0o600 and not told.warnings
    assert (b"ENCRYPTED" in private.read_bytes()) == bool(passphrase)
    assert SECRET not in repr(key) and "BEGIN" not in repr(key)
    private.chmod(0o644)
    keys.signer(environ)
    assert told.warnings == [f"TUNELINE_SIGNING_KEY: {private} can be read by others: chmod 600 {private}"]


def test_a_pair_replaces_nothing(tmp_path: Path) -> None:
    pair(tmp_path)
    for left in (keys.PRIVATE_FILE, keys.PUBLIC_FILE):
        before = (tmp_path / left).read_bytes()
        with pytest.raises(ParamsError, match=r"exists, and a key that was replaced is lost"):
            keys.make(tmp_path, None)
        assert (tmp_path / left).read_bytes() == before
    (tmp_path / keys.PRIVATE_FILE).unlink()
    with pytest.raises(ParamsError, match=r"public.pem exists"):
        keys.make(tmp_path, None)


def test_without_a_setting_there_is_no_key() -> None:
    assert keys.signer({}) is None and keys.trusted({}) is None


@pytest.mark.parametrize(
    ("content", "passphrase", "says"),
    [
        (b"nonsense", None, "is no private key in PEM"),
        (pem(RSA), None, r"is a key of another kind \(RSAPrivateKey\), and EC P-256 is what signs"),
        (pem(LARGE), None, "is an EC key on secp384r1, and EC P-256"),
        (public(LARGE), None, "is no private key in PEM"),
        ("encrypted", None, "is encrypted: set TUNELINE_SIGNING_PASSPHRASE"),
        ("encrypted", "sesame", "does not open with TUNELINE_SIGNING_PASSPHRASE"),
        (None, None, r"can't be read \(No such file"),
    ],
)
def test_a_private_key_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, content: bytes | str | None, passphrase: str | None, says: str
) -> None:
    file = tmp_path / "key.pem"
    if content == "encrypted":
        file = Path(pair(tmp_path / "pair", SECRET)[keys.SIGNING])
    elif isinstance(content, bytes):
        file.write_bytes(content)
    environ = {keys.SIGNING: str(file), **({keys.PASSPHRASE: passphrase} if passphrase else {})}
    with pytest.raises(ParamsError, match=says) as caught:
        keys.signer(environ)
    assert "\n" not in str(caught.value) and "BEGIN" not in str(caught.value)
    assert not passphrase or passphrase not in str(caught.value)


@pytest.mark.parametrize("name", [keys.SIGNING, keys.TRUSTED])
def test_a_key_in_the_variable_itself_is_not_repeated(name: str) -> None:
    read = keys.signer if name == keys.SIGNING else keys.trusted
    text = pem(LARGE).decode()
    for value in (text, text.replace("\n", " ")):
        with pytest.raises(ParamsError, match=f"^{name} holds a key: set it to the path of a PEM file, or unset it$"):
            read({name: value})
    with pytest.raises(ParamsError, match=f"{name} is empty"):
        read({name: ""})


def test_trusted_keys_come_from_a_file_of_several_or_a_folder(tmp_path: Path) -> None:
    made = [signer(tmp_path / name).public for name in ("a", "b", "c")]
    (tmp_path / "both.pem").write_bytes(b"of ada\n" + made[0].pem + b"\nof ben\n" + made[1].pem)
    assert keys.trusted({keys.TRUSTED: str(tmp_path / "both.pem")}) == tuple(made[:2])
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, key in zip("xy", made[1:], strict=True):
        (folder / f"{name}.pem").write_bytes(key.pem)
    (folder / "README").write_text("no key")
    assert keys.trusted({keys.TRUSTED: str(folder)}) == tuple(made[1:])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, r"holds no \*.pem"),
        ({"a.pem": b"nonsense"}, "holds no public key in PEM"),
        ({"a.pem": public(RSA)}, r"a.pem is a key of another kind \(RSAPublicKey\)"),
        ({"a.pem": public(LARGE)}, "a.pem is an EC key on secp384r1"),
        ({"a.pem": public(LARGE).replace(b"M", b"N", 1)}, "a.pem is damaged"),
        ({"private.pem": pem(LARGE)}, "is a private key: name public keys alone"),
        (None, r"can't be read"),
    ],
)
def test_trusted_keys_that_cannot_be_used_are_one_sentence(
    tmp_path: Path, content: dict[str, bytes] | None, says: str
) -> None:
    folder = tmp_path / "trusted"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    with pytest.raises(ParamsError, match=says) as caught:
        keys.trusted({keys.TRUSTED: str(folder)})
    assert str(caught.value).startswith("TUNELINE_TRUSTED_KEYS: ") and os.linesep not in str(caught.value)

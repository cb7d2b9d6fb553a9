"""Signatures: keygen, sign, signature."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.errors import ParamsError
from tasks.storage import checkout, keys
from tasks.storage.registry import Registry


def keygen(arguments: argparse.Namespace) -> int:
    private, public, key = keys.make(arguments.to, os.environ.get(keys.PASSPHRASE))
    if arguments.json:
        print(json.dumps({"key": key.id, "private": str(private), "public": str(public)}, indent=1))
    else:
        how = f"opened by {keys.PASSPHRASE}" if os.environ.get(keys.PASSPHRASE) else "not encrypted"
        print(
            f"{private}  signs: {keys.SIGNING} ({how}; for you alone: keep it out of git and backups that others read)"
        )
        print(f"{public}   checks: {keys.TRUSTED}, key id {key.id}")
    return 0


def sign(arguments: argparse.Namespace, registry: Registry) -> int:
    if (key := keys.signer(os.environ)) is None:
        raise ParamsError(f"{keys.SIGNING} is not set: set it to the file of a private key ({keys.MAKE})")
    version = registry.find(arguments.reference)
    made = registry.signatures.sign(version, key, who=checkout.user(), now=datetime.now(UTC))
    if arguments.json:
        print(json.dumps({"version": version.reference, "key": key.public.id, "signed": made}, indent=1))
    else:
        print(f"{version.reference} is signed{'' if made else ' already'} with the key {key.public.id}")
    return 0


def signature(arguments: argparse.Namespace, registry: Registry) -> int:
    version, file = registry.find(arguments.reference), Path(arguments.to)
    data = registry.signatures.bundle(version, None if arguments.part == "all" else arguments.part)
    try:
        with file.open("xb") as out:
            out.write(data)
    except FileExistsError:
        raise ParamsError(f"{file} exists: choose another name, or remove it") from None
    if arguments.json:
        print(json.dumps({"version": version.reference, "part": arguments.part, "file": str(file)}, indent=1))
    else:
        print(f"{version.reference} {arguments.part}: its signature is in {file}")
        print(f"model_signing verify key FOLDER --signature {file} --public_key {keys.PUBLIC_FILE}")
    return 0

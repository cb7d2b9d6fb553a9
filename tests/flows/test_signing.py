"""`tuneline models keygen`, `sign` and `signature` as a user types them, and what trusted keys do to the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.storage import keys
from tasks.storage.registry import Registry
from tests.models import ask, published, say
from tests.project import Project
from tests.signers import pair


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, services: dict[str, str]) -> Project:
    return published(tmp_path_factory.mktemp("signing"), tiny_base, services, 1, 2)


def test_from_a_key_to_a_checked_folder(project: Project, tmp_path: Path) -> None:
    made = ask(project, "keygen", "--to", str(tmp_path / "keys"))
    assert "exists, and a key that was replaced is lost" in say(
        project, "keygen", "--to", str(tmp_path / "keys"), code=2
    )
    mine, trusting = {keys.SIGNING: made["private"]}, {keys.TRUSTED: made["public"]}
    model = str(tmp_path / "model")

    refused = say(project, "pull", "desk@v1", "--to", model, code=5, **trusting)
    assert refused.startswith("error: desk@v1 has no valid signature of a key in TUNELINE_TRUSTED_KEYS (it has none)")
    assert "no valid signature" in say(project, "export", "desk@v1", str(tmp_path / "x.tar"), code=5, **trusting)
    assert "no valid signature" in say(project, "materialize", "desk@v1", "s3://flows/x", code=5, **trusting)
    assert not (tmp_path / "model").exists() and not (tmp_path / "x.tar").exists()

    assert ask(project, "sign", "desk@v1", **mine) == {"version": "desk@v1", "key": made["key"], "signed": True}
    assert "desk@v1 is signed already with the key" in say(project, "sign", "desk@v1", **mine)
    assert "every digest checked" in say(project, "pull", "desk@v1", "--to", model, **trusting)
    assert "every digest checked" in say(project, "export", "desk@v1", str(tmp_path / "x.tar"), **trusting)

    file = tmp_path / "model.sig"
    told = say(project, "signature", "desk@v1", "--to", str(file))
    assert f"model_signing verify key FOLDER --signature {file}" in told
    assert json.loads(file.read_bytes())["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert "exists: choose another name" in say(project, "signature", "desk@v1", "--to", str(file), code=2)


def test_what_is_shown_and_verified(project: Project, tmp_path: Path) -> None:
    mine, other = pair(tmp_path / "mine", "sesame"), pair(tmp_path / "other")
    mine_alone = {keys.TRUSTED: mine[keys.TRUSTED]}
    assert ask(project, "verify", "desk")["ok"]
    assert len(ask(project, "verify", "desk", code=5, **mine_alone)["faults"]) == 2
    for number in ("1", "2"):
        say(project, "sign", f"desk@v{number}", **mine)
    say(project, "sign", "desk@v2", **other)
    assert ask(project, "verify", "desk", **mine_alone)["ok"]

    shown = ask(project, "show", "desk@v2", **mine_alone)["signatures"]
    assert sorted((each["trusted"], each["problem"]) for each in shown) == [(False, None), (True, None)]
    lines = [line for line in say(project, "show", "desk@v2", **mine_alone).splitlines() if line.startswith("signed")]
    assert sorted(line.partition(", ")[2] for line in lines) == ["a trusted key", "no trusted key"]
    assert say(project, "show", "desk@v2").count("signed    ") == 2

    registry = Registry.open(project.environment)
    (key,) = keys.trusted(mine) or ()
    place = f"models/desk/signatures/v2-{key.id}.json"
    registry.store.put(place, registry.store.whole(place).replace(b'"keyid": ""', b'"keyid": "x"', 1))
    found = ask(project, "verify", "desk", code=5)
    assert [fault["suffer"] for fault in found["faults"]] == [["desk@v2"]]
    assert "which counts for nothing" in say(project, "show", "desk@v2")
    assert "no valid signature" in say(project, "pull", "desk@v2", "--to", str(tmp_path / "m"), code=5, **mine_alone)


@pytest.mark.parametrize(
    ("words", "environ", "code", "says"),
    [
        (["sign", "desk@v1"], {}, 2, "TUNELINE_SIGNING_KEY is not set: set it to the file of a private key"),
        (["sign", "desk@v1"], {keys.SIGNING: "/nowhere.pem"}, 2, "/nowhere.pem can't be read"),
        (["sign", "desk@v9"], None, 2, "desk has no version v9"),
        (["signature", "desk@v1", "--part", "nf4", "--to", "x.sig"], {}, 2, "has no part 'nf4'"),
        (["list"], {keys.TRUSTED: "/nowhere.pem"}, 2, "TUNELINE_TRUSTED_KEYS: /nowhere.pem can't be read"),
    ],
)
def test_a_mistake_is_one_message(
    project: Project, tmp_path: Path, words: list[str], environ: dict[str, str] | None, code: int, says: str
) -> None:
    failed = say(project, *words, code=code, **(pair(tmp_path) if environ is None else environ))
    assert failed.strip().splitlines()[-1].startswith("error: ") and says in failed

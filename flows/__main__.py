"""`tuneline`: the line from the command line. This module loads neither Prefect nor torch; each command brings its own."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.core import collector, layout
from tasks.core.errors import TunelineError, from_os_error

EPILOG = """\
Without any setting, everything runs on this machine: an S3 store and a Prefect server start under .tuneline/
when a command needs them and stop with it. To use others, set:

  TUNELINE_REGISTRY   s3://BUCKET/PREFIX, with the usual AWS_* variables (AWS_ENDPOINT_URL_S3 for a store of your own)
  PREFECT_API_URL     the address of a Prefect server, PREFECT_API_AUTH_STRING what it asks for
  TUNELINE_LANDING    where new rows land: a folder or s3://BUCKET/PREFIX
  TUNELINE_QUEUE      URL of the SQS queue that its bucket tells of them
  TUNELINE_THREADS    processor threads (default: all)

  TUNELINE_METRICS_PORT  port of loopback on which `tuneline up` serves metrics for Prometheus

  TUNELINE_SIGNING_KEY   file of the private key that signs what is published (TUNELINE_SIGNING_PASSPHRASE opens it)
  TUNELINE_TRUSTED_KEYS  file or folder of public keys: what no key of these signed is not pulled
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tuneline",
        description="A production line for fine-tuned language models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _data(commands.add_parser("data", help="the corpus: take landing files in, look at it, go back, take rows out"))

    run = commands.add_parser("run", help="run every stage that has changed and register the result")
    run.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a param: train.rank=8")
    run.add_argument("--dry-run", action="store_true", help="say which stages would run, and why; run none")
    _json(run)

    predict = commands.add_parser("predict", help="what a training would train and take; no weights are loaded")
    predict.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a param")
    _json(predict)

    up = commands.add_parser("up", help="serve the Prefect UI, the store and the deployments until Ctrl-C")
    up.add_argument("--port", type=int, default=None, help="of the Prefect UI (default: a free one)")

    listen = commands.add_parser("listen", help="announce what the queue says has landed to the Prefect server")
    listen.add_argument("--once", action="store_true", help="what lies there now, then end; for cron")
    _json(listen)

    _models(commands.add_parser("models", help="the registry: look, promote, go back, pull, check, sign, clear up"))

    again = commands.add_parser("reproduce", help="make a version again from its manifest; exit code 5 if it differs")
    again.add_argument("reference", help="NAME, NAME@vN or NAME@ALIAS")
    again.add_argument(
        "--tolerance", type=float, default=0.0, metavar="X",
        help="where bytes differ, how far a figure on the test rows may be off (default: 0, none)",
    )  # fmt: skip
    _json(again)

    analyze = commands.add_parser("analyze", help="what a version's training did to its base; what two versions share")
    analyze.add_argument("reference", help="NAME or NAME@vN")
    analyze.add_argument("other", nargs="?", help="a second version, to compare subspaces with")
    analyze.add_argument("--base", type=Path, default=layout.BASE, help=f"folder of its base (default: {layout.BASE})")
    analyze.add_argument("--out", type=Path, help="a folder for pictures (SVG)")
    _json(analyze)

    _json(commands.add_parser("doctor", help="check this machine, the store and the base model"))
    return top


def _data(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    where = "a folder, a file or s3://BUCKET/PREFIX (default: TUNELINE_LANDING)"
    ingest = actions.add_parser("ingest", help="take in every landing file that no version has: the next version")
    ingest.add_argument("source", nargs="?", help=where)
    status = actions.add_parser("status", help="every version, which one lies here, which files wait")
    status.add_argument("source", nargs="?", help=where)
    show = actions.add_parser("show", help="one version: its arrivals and what became of every row")
    show.add_argument("version", nargs="?", default="latest", help="v3, or latest (default)")
    show.add_argument("--quarantine", action="store_true", help="print the refused rows with file, line and reason")
    diff = actions.add_parser("diff", help="rows added and removed between two versions")
    diff.add_argument("old")
    diff.add_argument("new", nargs="?", default="latest")
    drift = actions.add_parser("drift", help="how far the rows that arrived since a version are from it")
    drift.add_argument("reference", help="a data version (v3), or a model (NAME, NAME@v2): what it was trained on")
    drift.add_argument("--limit", type=float, default=0.2, help="exit code 1 above it, noise aside (default: 0.2)")
    checkout = actions.add_parser("checkout", help="make data/raw a version, every digest checked")
    checkout.add_argument("version", help="v3, or latest")
    forget = actions.add_parser("forget", help="make a version without some rows, which stay out from then on")
    forget.add_argument(
        "--where", action="append", default=[], metavar="CONDITION",
        help="id=X, source=X, tag=X or text~REGEX; all conditions must hold",
    )  # fmt: skip
    forget.add_argument("--dry-run", action="store_true", help="only say which rows those are")
    check = actions.add_parser("check", help="what an ingest would make of a file; exit code 1 if a row is unfit")
    check.add_argument("file", type=Path)
    preview = actions.add_parser("preview", help="rows as the model sees them; which tokens carry loss")
    preview.add_argument("--id", action="append", default=[], help="only the row of this id")
    preview.add_argument("--rows", type=int, default=2, help="how many (default: 2)")
    for action in (ingest, status, show, diff, drift, forget, check, preview):
        _json(action)


def _models(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = "NAME (the newest), NAME@vN or NAME@ALIAS"
    listing = actions.add_parser("list", help="every model and version, and which aliases name it")
    listing.add_argument("name", nargs="?", help="of one model only")
    show = actions.add_parser("show", help="one version: results, lineage, files")
    show.add_argument("reference", help=one)
    pull = actions.add_parser("pull", help="download a version, checking every digest")
    pull.add_argument("reference", help=one)
    pull.add_argument("--part", default="merged", help="merged, adapter, report, a format, or all (default: merged)")
    pull.add_argument("--to", type=Path, required=True, help="a new or empty folder")
    judge = actions.add_parser("judge", help="a version's verdicts, made again from the scores; exit code 1 if refused")
    judge.add_argument("reference", help=one)
    promote = actions.add_parser("promote", help="make an alias name a version that the gate let pass")
    promote.add_argument("reference", help=one)
    promote.add_argument("--alias", default="champion", help="(default: champion)")
    promote.add_argument("--why", required=True, help="for the audit log")
    promote.add_argument("--expect", metavar="vM", help="refuse if the alias names another version now; none: if any")
    promote.add_argument("--unjudged", action="store_true", help="without a verdict; the log shows that it lacks one")
    rollback = actions.add_parser("rollback", help="take an alias back to the version that it named before")
    rollback.add_argument("name")
    rollback.add_argument("--alias", default="champion", help="(default: champion)")
    rollback.add_argument("--why", required=True, help="for the audit log")
    log = actions.add_parser("log", help="who did what to a model's versions, when and why")
    log.add_argument("name")
    verify = actions.add_parser("verify", help="read and hash every blob; exit code 5 if anything is wrong")
    verify.add_argument("reference", nargs="?", help="NAME, or NAME@vN for one version (default: the whole registry)")
    pin = actions.add_parser("pin", help="keep a version from garbage collection; pin --release NAME@vN ends that")
    pin.add_argument("reference", help=one)
    pin.add_argument("--why", required=True, help="for the audit log")
    pin.add_argument("--release", action="store_true", help="keep it no longer")
    gc = actions.add_parser(
        "gc", help="what no version names, and old versions if asked; says it, or with --delete does it"
    )
    gc.add_argument(
        "--keep", type=int, metavar="N", help="retire all but the newest N of a model; aliased and pinned ones stay"
    )
    gc.add_argument("--grace", type=float, default=24, metavar="HOURS", help="younger blobs stay (default: 24)")
    gc.add_argument("--delete", action="store_true", help="remove it")
    diff = actions.add_parser("diff", help="what lies between two versions: data, base, params, metrics, files")
    diff.add_argument("before", help=one)
    diff.add_argument("after", help=one)
    materialize = actions.add_parser(
        "materialize", help="copy a version into a plain folder on S3, on the store's side"
    )
    materialize.add_argument("reference", help=one)
    materialize.add_argument("target", metavar="s3://BUCKET/PREFIX")
    materialize.add_argument("--part", default="merged", help="as pull (default: merged)")
    export = actions.add_parser("export", help="write a version as one tar file, checking every digest")
    export.add_argument("reference", help=one)
    export.add_argument("file", type=Path)
    keygen = actions.add_parser("keygen", help="make a pair of keys for signatures")
    keygen.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="gets private.pem and public.pem")
    sign = actions.add_parser("sign", help="sign a version with the key of TUNELINE_SIGNING_KEY")
    sign.add_argument("reference", help=one)
    signature = actions.add_parser("signature", help="write a version's signature as model_signing reads it")
    signature.add_argument("reference", help=one)
    signature.add_argument("--part", default="merged", help="what was pulled (default: merged)")
    signature.add_argument("--to", type=Path, required=True, metavar="FILE", help="a new file")
    looking, moving = (listing, show, log, verify, diff), (judge, promote, rollback, pin, gc)
    for action in (*looking, *moving, pull, materialize, export, keygen, sign, signature):
        _json(action)


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON value on standard output")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 failed, others by the kind of error (tasks/core/errors.py)."""
    collector.seldom()
    arguments = parser().parse_args(argv)
    try:
        return importlib.import_module(f"flows.cli.{arguments.command}").main(arguments)
    except TunelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"error: {from_os_error(error, f'tuneline {arguments.command}')}", file=sys.stderr)
        return 6
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

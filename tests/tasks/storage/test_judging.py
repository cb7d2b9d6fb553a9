"""A judge behind a real HTTP server: both orders, what fails and comes back, what is kept, and who hears the key."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.core.errors import ParamsError, TransientError
from tasks.core.sections import EvaluateParams
from tasks.data.preference import REMINDER
from tasks.storage import judging
from tasks.storage.chat_endpoint import KEY
from tasks.storage.judging import Judging
from tests import chat_server
from tests.chat_server import Reply

ROWS = ["one?", "two?", "three?", "four?"], ["good answer", "bad", "same", "ok"], ["so so", "good one", "same", "fine"]


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_WORK", str(tmp_path))
    return tmp_path


def judge(url: str, environment: Mapping[str, str] | None = None, **judge: object) -> Judging:
    values = {"metrics": ["judge"], "judge": {"url": url, "model": "m", **judge}}
    found = judging.of(EvaluateParams.model_validate(values), environment or {}, (0.01, 0.01))
    assert found
    return found


def likes_good(question: str) -> Reply:
    """An honest judge: the answer that says good; neither or both: a tie."""
    a, b = ("good" in answer for answer in chat_server.answers(question))
    return "tie" if a == b else "A" if a else "B"


def test_both_orders_are_asked_and_equal_answers_are_not() -> None:
    with chat_server.serving(likes_good) as peer:
        found = judge(peer.url)(*ROWS)
    assert found.values == (1, 0, 0.5, 0.5)
    assert (found.asked, found.unread, found.contradicted, found.position_bias) == (3, 0, 0, 0)
    pairs = [chat_server.answers(question) for question in peer.questions]
    unlike = [pair for pair in zip(ROWS[1], ROWS[2], strict=True) if pair[0] != pair[1]]
    assert sorted(pairs) == sorted([*unlike, *((reference, answer) for answer, reference in unlike)])
    assert {(body["model"], body["temperature"], body["seed"]) for body in peer.heard} == {("m", 0, 7)}


def test_a_judge_that_always_says_a_prefers_nothing() -> None:
    with chat_server.serving(lambda _: "A") as peer:
        found = judge(peer.url)(*ROWS)
    assert found.values == (0.5,) * 4 and found.position_bias == 1 and found.contradicted == 3


def test_what_was_answered_is_not_asked_again(work: Path) -> None:
    with chat_server.serving(likes_good) as peer:
        first = judge(peer.url)(*ROWS)
        assert judge(peer.url)(*ROWS) == first and len(peer.heard) == 6
        judge(peer.url, model="other")(*ROWS)
        assert len(peer.heard) == 12, "another model is another judge"
        judge(peer.url, prompt="{request} {a} {b}")
    assert len([path for path in (work / "judge").rglob("*") if path.is_file()]) == 12
    with chat_server.serving(likes_good) as peer:
        judge(peer.url)(*ROWS)
        assert len(peer.heard) == 6, "and so is another endpoint"


def test_a_reply_that_cannot_be_read_is_asked_for_once_more_and_then_counted() -> None:
    def mumbles(question: str) -> Reply:
        if "two?" in question:
            return "Well, both have merits"
        return likes_good(question) if question.endswith(REMINDER) else "I prefer answer A."

    with chat_server.serving(mumbles) as peer:
        found = judge(peer.url)(*ROWS)
        assert found.values == (1, None, 0.5, 0.5) and (found.asked, found.unread) == (3, 1)
        assert len(peer.heard) == 12
        judge(peer.url)(*ROWS)
        assert len(peer.heard) == 16, "what could not be read is asked for again"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fault_that_passes_changes_nothing(status: int) -> None:
    lock, seen = threading.Lock(), set[str]()

    def first_fails(question: str) -> Reply:
        with lock:
            if question not in seen:
                seen.add(question)
                return status, b"later"
        return likes_good(question)

    with chat_server.serving(first_fails) as peer:
        assert judge(peer.url)(*ROWS).values == (1, 0, 0.5, 0.5)
        assert len(peer.heard) == 12


def test_a_fault_that_stays_is_transient_and_keeps_what_was_answered() -> None:
    def third_fails(question: str) -> Reply:
        return (500, b"out of order") if "four?" in question else likes_good(question)

    with chat_server.serving(third_fails) as peer:
        with pytest.raises(TransientError, match=r"gave no answer in 3 tries: HTTP 500: out of order.*run the same"):
            judge(peer.url, concurrency=1)(*ROWS)
        asked = len(peer.heard)
        with pytest.raises(TransientError):
            judge(peer.url, concurrency=1)(*ROWS)
        assert 4 + 3 <= asked <= 4 + 3 + 1, "whoever had begun to ask may end"
        assert len(peer.heard) - asked <= 3 + 1, "the first four are kept"


def test_nobody_there_is_transient() -> None:
    with chat_server.serving(likes_good) as peer:
        pass
    with pytest.raises(TransientError, match="ConnectError"):
        judge(peer.url)(*ROWS)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((401, b"wrong key s3cret"), rf"refuses the key in {KEY}: HTTP 401: wrong key \*\*\*"),
        ((404, b"no such model"), r"refuses m: HTTP 404: no such model\. Check url and model"),
        ((302, b""), "HTTP 302"), ((200, b"<html>hello</html>"), "does not answer as OpenAI's .*<html>"),
        ((200, b'{"choices": []}'), "does not answer as OpenAI's"),
    ],
)  # fmt: skip
def test_a_refusal_is_said_at_once_and_without_the_key(reply: Reply, said: str) -> None:
    with chat_server.serving(lambda _: reply) as peer:
        with pytest.raises(ParamsError, match=said) as caught:
            judge(peer.url, {KEY: "s3cret"}, concurrency=1)(*ROWS)
        assert len(peer.heard) < 6 and "s3cret" not in str(caught.value)


def test_the_key_is_a_header_and_nothing_else(work: Path) -> None:
    with chat_server.serving(likes_good) as peer:
        judge(peer.url, {KEY: "s3cret\n"})(*ROWS)
    assert {*peer.keys} == {"Bearer s3cret"} and "s3cret" not in str(peer.heard)
    assert all("s3cret" not in path.read_text() for path in work.rglob("*") if path.is_file())
    with pytest.raises(ParamsError, match="characters that no key has") as caught:
        judge(peer.url, {KEY: "s3\x00cret"})
    assert "cret" not in str(caught.value)


def test_several_are_asked_at_once() -> None:
    def slowly(question: str) -> Reply:
        time.sleep(0.2)
        return likes_good(question)

    with chat_server.serving(slowly) as peer:
        started = time.monotonic()
        judge(peer.url, concurrency=6)(*ROWS)
        assert time.monotonic() - started < 0.9, "six replies of 0.2 s"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://judge.example/v1", "judge.example would get texts and key unencrypted: use https"),
        ("http://127.0.0.1.example/v1", "use https"), ("https://me:pass@judge.example/v1", f"set {KEY}"),
        ("ftp://judge.example", "expected https://HOST/v1"), ("judge", "expected https://HOST/v1"),
        ("https://judge.example/v1?key=1", "nothing after it"), ("http://judge:port/v1", "no URL"),
    ],
)  # fmt: skip
def test_where_texts_may_be_sent(url: str, said: str) -> None:
    with pytest.raises(ParamsError, match=rf"^evaluate\.judge\.url: .*{said}") as caught:
        judge(url)
    assert "pass" not in str(caught.value)


def test_encrypted_or_on_this_machine() -> None:
    for url in ("https://judge.example/v1", "http://localhost:1/v1", "http://127.8.0.1:1/v1", "http://[::1]:1/v1/"):
        assert judge(url).endpoint.url == url.rstrip("/")


def test_a_judge_has_a_url_and_a_model() -> None:
    assert judging.of(EvaluateParams(), {}) is None
    for lacking in ({"model": "m"}, {"url": "https://judge.example/v1"}):
        with pytest.raises(ParamsError, match=r"evaluate\.judge\.(url|model): the metric judge needs it"):
            judging.of(EvaluateParams.model_validate({"metrics": ["judge"], "judge": lacking}), {})

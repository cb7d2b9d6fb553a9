"""An endpoint that speaks OpenAI's chat completions: one question, one reply. Of the tasks the only one that knows httpx.

The key comes from the environment, goes into one header and nowhere else. Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import httpx
from pydantic import BaseModel, Field, ValidationError

from tasks.core.errors import ParamsError, TransientError

KEY = "TUNELINE_JUDGE_KEY"
SEED = 7
MOST = 512
"""Tokens of a reply: one word takes a few, and who rambles is cut off."""
TIMEOUT = httpx.Timeout(120.0, connect=10.0)
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try."""
LONGEST_WAIT = 60.0


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


@dataclass(frozen=True)
class Endpoint:
    """Safe to use from several threads. `stop`: once it is set, nothing more is asked."""

    url: str
    model: str
    client: httpx.Client
    waits: tuple[float, ...] = WAITS
    stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, url: str, model: str, environment: Mapping[str, str], waits: tuple[float, ...] = WAITS) -> Self:
        """ParamsError: the URL or the key can't be used. Nothing is asked yet."""
        loopback = check(url)
        key = environment.get(KEY, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ParamsError(f"{KEY} holds characters that no key has: set it again")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A proxy of the environment is for other machines.
        client = httpx.Client(headers=headers, timeout=TIMEOUT, trust_env=not loopback, follow_redirects=False)
        return cls(url.rstrip("/"), model, client, waits)

    def ask(self, question: str) -> str:
        """The reply to one user's turn, greedily. TransientError: the endpoint is out of reach, throttles or fails, also
        after several tries. ParamsError: it refuses the key, the model or the question."""
        body = {
            "model": self.model, "messages": [{"role": "user", "content": question}],
            "temperature": 0, "seed": SEED, "max_tokens": MOST,
        }  # fmt: skip
        said, asked_to_wait = "", 0.0
        for wait in (0.0, *self.waits):
            if self.stop.wait(max(wait, asked_to_wait)):
                break
            try:
                answer = self.client.post(f"{self.url}/chat/completions", json=body)
            except httpx.RequestError as error:
                said, asked_to_wait = f"{type(error).__name__}: {error}", 0.0
                continue
            if answer.status_code not in (408, 429) and answer.status_code < 500:
                return self._reply(answer)
            said, asked_to_wait = _said(answer), _retry_after(answer)
        raise TransientError(
            f"evaluate.judge: {self.url} gave no answer in {1 + len(self.waits)} tries: {said}. "
            "What was answered so far is kept: run the same command again later"
        )

    def _reply(self, answer: httpx.Response) -> str:
        if answer.status_code in (401, 403):
            raise ParamsError(f"evaluate.judge: {self.url} refuses the key in {KEY}: {_said(answer)}")
        if answer.status_code != 200:
            raise ParamsError(f"evaluate.judge: {self.url} refuses {self.model}: {_said(answer)}. Check url and model")
        try:
            return _Completion.model_validate_json(answer.content).choices[0].message.content or ""
        except ValidationError:
            raise ParamsError(
                f"evaluate.judge.url: {self.url} does not answer as OpenAI's chat completions do: {_said(answer)}"
            ) from None


def check(url: str) -> bool:
    """Whether the URL is on this machine. ParamsError: it is no URL, has a password in it, or would send texts in the clear."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ParamsError(f"evaluate.judge.url: no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise ParamsError(
            f"evaluate.judge.url: {parts.host!r} is no endpoint: expected https://HOST/v1, nothing after it"
        )
    if parts.userinfo:
        raise ParamsError(f"evaluate.judge.url: a key has no place in it: set {KEY} in the environment")
    loopback = _is_loopback(parts.host)
    if parts.scheme == "http" and not loopback:
        raise ParamsError(f"evaluate.judge.url: {parts.host} would get texts and key unencrypted: use https")
    return loopback


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(answer: httpx.Response) -> float:
    """What the endpoint asks for, in seconds, and at the most LONGEST_WAIT; 0 if it does not say."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), LONGEST_WAIT) if text.isdecimal() else 0.0


def _said(answer: httpx.Response) -> str:
    """The status and the beginning of the body, on one line; without the key, should the endpoint repeat it."""
    key = answer.request.headers.get("authorization", "").removeprefix("Bearer ")
    text = answer.text.replace(key, "***") if key else answer.text
    return f"HTTP {answer.status_code}: {' '.join(text.split()) or 'nothing':.200}"

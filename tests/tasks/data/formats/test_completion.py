"""Prompt and completion."""

from __future__ import annotations

from tests.tasks.data.formats.spellings import A, Q, said, to_row, unfit


def test_prompt_and_completion_may_be_messages() -> None:
    asked = {"prompt": [{"role": "system", "content": "s"}, Q], "completion": [A]}
    assert to_row(asked) == to_row({"prompt": "q", "completion": "a", "system": "s"})
    assert to_row({**asked, "completion": "a"}) == to_row(asked)
    assert said(to_row({"prompt": "The sky is", "completion": " blue."}))[1] == ("assistant", " blue.")
    assert unfit({"prompt": "q", "completion": None})[0] == "blank turn"
    assert unfit({"prompt": 7, "completion": "a"})[0] == "wrong type"
    assert unfit({"prompt": [Q], "completion": [Q]})[0] == "no answer"

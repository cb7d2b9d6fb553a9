"""What all prompt learners are told. No torch here: options are checked before anything heavy is imported."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.core.sections import Count, Section


class PromptOptions(Section):
    tokens: Annotated[Count, Field(description="virtual tokens; they take positions from the rows")] = 20
    lora: Annotated[
        bool, Field(description="a LoRA of train.rank, train.alpha and train.targets trains together with them")
    ] = False

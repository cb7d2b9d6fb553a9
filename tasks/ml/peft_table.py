"""Tuners that PEFT has and that need no special preparation: what each is, and how `train`'s params reach its config.

What a tuner's options are is not written here: they are the fields of the installed PEFT's config class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Places = Literal["linear", "norms", "embedding", "attention"]


@dataclass(frozen=True)
class Tuner:
    """`source` is the paper that PEFT follows.

    rank, alpha: the config's own names of train.rank and train.alpha; None: it has none, the param is ignored.
    bounded: train.rank can't be above a layer's smaller side.
    places: what train.targets chooses among; `attention` and `embedding` leave no choice.
    conv1d: PEFT can put it on GPT-2's transposed linear layers.
    draws: what each token adds is drawn at random in training.
    defaults: options where PEFT's own default can't be used.
    required: options without a default.
    divides: an option and PEFT's default; its own default is the largest divisor of all sides up to that.
    refused: options that can't be used here, with the reason.
    needs: a module beyond tuneline's own, and the package that brings it.
    """

    source: str
    rank: str | None = None
    alpha: str | None = None
    bounded: bool = True
    places: Places = "linear"
    conv1d: bool = False
    draws: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    required: tuple[str, ...] = ()
    divides: tuple[str, int] | None = None
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    needs: tuple[str, str] | None = None


TUNERS: dict[str, Tuner] = {
    "adamss": Tuner(
        "AdaMSS, openreview 8ZdWmpYxT0",
        rank="r",
        refused={
            "use_asa": "its schedule must be called between backward and the optimizer, which PEFT leaves to a Trainer"
        },
        needs=("sklearn", "scikit-learn"),
    ),
    "adaption_prompt": Tuner(
        "LLaMA-Adapter, arXiv 2303.16199", places="attention", conv1d=True, defaults={"adapter_len": 10}
    ),
    "beft": Tuner("BEFT, arXiv 2509.15974"),
    "boft": Tuner("BOFT, arXiv 2311.06243"),
    "c3a": Tuner("C3A, arXiv 2407.19342", divides=("block_size", 256)),
    "deft": Tuner("DEFT, as PEFT defines it", rank="r", alpha="alpha", conv1d=True),
    "delora": Tuner("DeLoRA, arXiv 2503.18225", rank="r"),
    "fourierft": Tuner("FourierFT, arXiv 2405.03003", conv1d=True),
    "frod": Tuner("FRoD, as PEFT defines it", conv1d=True, defaults={"progressbar": False}),
    "glora": Tuner("GLoRA, arXiv 2306.07967", rank="r"),
    "gralora": Tuner("GraLoRA, arXiv 2505.20355", rank="r", alpha="alpha", conv1d=True),
    "hira": Tuner("HiRA, openreview TwJrTz9cRS", rank="r", conv1d=True),
    "hra": Tuner("HRA, arXiv 2405.17484", rank="r", bounded=False),
    "ia3": Tuner("(IA)3, arXiv 2205.05638", conv1d=True),
    "ln_tuning": Tuner("LayerNorm tuning, arXiv 2312.11420", places="norms", conv1d=True),
    "loha": Tuner("LoHa, arXiv 2108.06098", rank="r", alpha="alpha"),
    "lokr": Tuner("LoKr, arXiv 2309.14859", rank="r", alpha="alpha"),
    "miss": Tuner("MiSS, arXiv 2409.15371", rank="r"),
    "oft": Tuner("OFT, arXiv 2306.07280 and 2506.19847"),
    "osf": Tuner("OSF, arXiv 2504.07097"),
    "peanut": Tuner("PEANuT, arXiv 2410.01870", rank="r"),
    "psoft": Tuner("PSOFT, arXiv 2505.11235", rank="r", alpha="psoft_alpha"),
    "pvera": Tuner(
        "PVeRA, arXiv 2512.07703",
        rank="r",
        bounded=False,
        conv1d=True,
        draws=True,
        refused={"generator_seed": "a generator of its own is not in the checkpoint; train.launch.seed decides"},
    ),
    "randlora": Tuner("RandLoRA, arXiv 2502.00987", rank="r", alpha="randlora_alpha", conv1d=True),
    "road": Tuner("RoAd, arXiv 2409.00119", divides=("group_size", 64)),
    "shira": Tuner("SHiRA, arXiv 2406.13175", rank="r", bounded=False),
    "supertuning": Tuner("Super-Tuning, arXiv 2607.09287"),
    "tinylora": Tuner("TinyLoRA, arXiv 2602.04118", rank="r", conv1d=True),
    "trainable_tokens": Tuner(
        "chosen rows of the embedding, as PEFT defines it",
        places="embedding",
        conv1d=True,
        required=("token_indices",),
    ),
    "unilora": Tuner("Uni-LoRA, arXiv 2506.00799", rank="r", conv1d=True),
    "vblora": Tuner("VB-LoRA, arXiv 2405.15179", rank="r", conv1d=True, divides=("vector_length", 256)),
    "vera": Tuner("VeRA, arXiv 2310.11454", rank="r", bounded=False, conv1d=True),
    "waveft": Tuner("WaveFT, arXiv 2505.12532", conv1d=True),
}

ABSENT: dict[str, str] = {
    "arrow": "nothing of it trains: it routes finished LoRAs by the singular vectors of their weights; xlora's router learns to",
    "bone": "it is called miss now; options {init_weights: bat} is its variant Bat",
    "cartridge": "it distils a long document into a prefix, from the base's own answers; prefix trains the same tensors on rows",
    "cpt": "its virtual tokens are a labelled context with a loss of its own",
    "lily": "its router averages over all tokens of a forward pass: packed rows, and answers generated together, see each other",
    "multitask_prompt_tuning": "it needs a task number with each row",
    "poly": "it needs a task number with each row",
    "shadow": "a second backbone runs beside the base, which doesn't know packed rows",
}
"""What PEFT has and tuneline has not, with the reason."""

ELSEWHERE: dict[str, str] = {
    "auto_mapping": "tuneline sets it",
    "base_model_name_or_path": "tuneline sets it",
    "fan_in_fan_out": "it follows from the layers",
    "inference_mode": "tuneline sets it",
    "modules_to_save": "with tied embeddings a head trained beside the adapter would be lost on reload",
    "peft_type": "it is train.method",
    "peft_version": "tuneline sets it",
    "progressbar": "tuneline sets it",
    "revision": "tuneline sets it",
    "runtime_offload_base_weight": "the base stays where it is",
    "target_modules": "it is train.targets",
    "task_type": "tuneline sets it",
}
"""Fields of PEFT's config classes that are no options, with the reason."""

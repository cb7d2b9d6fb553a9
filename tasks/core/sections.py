"""The sections of params.yaml: every knob, its type, its unit and its default. All frozen and closed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Metric = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9._-]{0,62}|[A-Za-z_][\w.]{0,99}:[A-Za-z_]\w{0,99})$")
]
"""A name, or the path of a function."""
Engine = Literal["auto", "transformers", "vllm"]
Word = Annotated[str, StringConstraints(min_length=1)]


class Section(BaseModel):
    """A closed section: an unknown key is an error with its dotted path."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FetchParams(Section):
    """The base model, or the version that training goes on from."""

    ref: Annotated[str, Field(description="hub:ORG/NAME, a folder, or gguf:PACKAGE or gguf:FILE; paths absolute")]
    revision: Annotated[
        str | None, Field(description="hub: the 40-digit commit; folder or gguf: the SHA-256 it must have")
    ] = None
    chat_template: Annotated[str | None, Field(description="Jinja text in place of the model's own template")] = None
    continue_from: Annotated[
        Word | None,
        Field(description="NAME@vN; NAME@ALIAS, or NAME or NAME@latest for the newest, as it is when a run starts"),
    ] = None
    keep: Annotated[
        Literal["merged", "frozen"],
        Field(description="of that version: its merged model as the base, or its LoRA frozen beside the original base"),
    ] = "merged"


class Columns(Section):
    """Columns of a table of questions and answers, by the names that its header gives them."""

    prompt: Word
    completion: Word
    system: Word | None = None
    tags: tuple[Word, ...] = ()


class DataParams(Section):
    """The door of the data: how landing files are read."""

    format: Annotated[Name, Field(description="auto, or one of tasks/data/formats/")] = "auto"
    columns: Annotated[tuple[Columns, ...], Field(description="for tables: the first whose columns are there")] = ()
    max_row_bytes: Annotated[Count, Field(description="larger rows are quarantined")] = 1 << 20
    max_quarantined: Annotated[
        float, Field(ge=0, le=1, description="share of an arrival's rows above which it is refused whole")
    ] = 0.5
    git: Annotated[Literal["none", "commit", "tag"], Field(description="also record each data version in git")] = "none"


class Splits(Section):
    """Shares of the prompts, chosen by a hash: a prompt never moves when others arrive."""

    valid: Share = 0.05
    test: Share = 0.15
    test_until: Annotated[
        Count | None, Field(description="only data versions up to this one bring test rows; later ones are held out")
    ] = None

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.valid + self.test > 0.9:
            raise ValueError("valid and test together leave less than a tenth for training")
        return self


class Pack(Section):
    tokens: Annotated[Count, Field(description="of one pack; a longer row is a pack of its own")] = 1024
    tasks: Annotated[
        Literal["source", "tag"], Field(description="what makes rows one task: their source, or their first tag")
    ] = "source"


class Source(Section):
    """How much of one source is trained on."""

    weight: Annotated[float, Field(ge=0, le=100, description="times that each of its rows is seen an epoch")] = 1.0
    cap: Annotated[Count | None, Field(description="at the most so many of its rows")] = None


class Mixing(Section):
    """Shares of the sources in the training set (Raffel et al. 2020, section 3.5.2)."""

    temperature: Annotated[
        float, Field(ge=1, le=100, description="1: by size; larger: small sources are seen more often")
    ] = 1.0
    sources: dict[str, Source] = {}


Judged = Literal["ignore", "report", "drop"]


class NearDuplicates(Section):
    action: Judged = "drop"
    similarity: Annotated[
        float, Field(gt=0.5, le=1, description="estimated Jaccard similarity of the word 3-grams")
    ] = 0.9


class Contamination(Section):
    action: Judged = "drop"
    ngram: Annotated[int, Field(ge=4, le=50, description="words shared with a test row's prompt or answer")] = 13


class Languages(Section):
    action: Judged = "ignore"
    allowed: Annotated[tuple[Word, ...], Field(description="ISO 639-1 codes, for instance en, de")] = ()


class Lengths(Section):
    action: Judged = "report"
    quartiles: Annotated[
        float, Field(gt=0, description="outlier: so many interquartile ranges beyond the quartiles (Tukey 1977)")
    ] = 3.0


class Answers(Section):
    """Answers that teach little: the same one to many prompts, loops within one, refusals."""

    repeated: Judged = "report"
    max_repeats: Annotated[Count, Field(description="prompts that may share one answer")] = 20
    loops: Judged = "report"
    refusals: Judged = "report"


class Pii(Section):
    """Personal data found by rules."""

    action: Literal["ignore", "report", "redact", "drop"] = "report"
    kinds: tuple[Literal["email", "phone", "card", "iban", "ip"], ...] = ("email", "phone", "card", "iban", "ip")


class Quality(Section):
    near_duplicates: NearDuplicates = NearDuplicates()
    contamination: Contamination = Contamination()
    languages: Languages = Languages()
    lengths: Lengths = Lengths()
    answers: Answers = Answers()
    pii: Pii = Pii()


class PrepareParams(Section):
    splits: Splits = Splits()
    max_length: Annotated[Count, Field(description="tokens; longer rows are dropped and counted")] = 512
    max_dropped: Annotated[Share, Field(description="share of rows that don't fit, above which the stage fails")] = 0.1
    salt: str = "tuneline"
    replay: Annotated[
        float, Field(ge=0, le=1, description="share of the rows that a continued version knows which train again")
    ] = 0.1
    pack: Pack = Pack()
    mixing: Mixing = Mixing()
    quality: Quality = Quality()


class Batch(Section):
    packs: Annotated[Count, Field(description="packs an optimizer step; their size is prepare.pack.tokens")] = 1
    micro_tokens: Annotated[Count, Field(description="tokens a forward pass: bounds memory, not the result")] = 1024
    neftune: Annotated[
        float, Field(ge=0, description="noise on the embeddings, alpha of Jain et al. 2023 (arXiv 2310.05914); 0: none")
    ] = 0.0
    pcgrad: Annotated[
        bool, Field(description="project conflicting gradients of a step's tasks, Yu et al. 2020 (arXiv 2001.06782)")
    ] = False


class Optimizer(Section):
    name: Literal["adamw", "paged_adamw_8bit", "adafactor", "lion", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Annotated[Share, Field(description="share of the steps")] = 0.05
    weight_decay: Annotated[float, Field(ge=0, description="of what trains, never of the frozen base")] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class Validation(Section):
    """How often the loss on the validation rows is measured, and what it decides."""

    times: Annotated[Count, Field(description="in a run, beside the start")] = 4
    patience: Annotated[
        Count | None, Field(description="so many measurements without a lower loss end the training; null: never")
    ] = None
    keep: Annotated[Literal["last", "best"], Field(description="the last weights, or those of the lowest loss")] = (
        "last"
    )


class Launch(Section):
    """How it is computed."""

    dtype: Annotated[
        Literal["auto", "bfloat16", "float32"], Field(description="auto: bfloat16 where it is multiplied in hardware")
    ] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7
    processes: Annotated[Count, Field(description="that share each step's packs")] = 1
    sharded: Annotated[bool, Field(description="each process holds its share of the base only (FSDP2)")] = False
    recompute: Annotated[
        Literal["auto", "never", "always"],
        Field(description="activations in the backward pass; auto: if memory asks for it"),
    ] = "auto"


class TrainParams(Section):
    method: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")] = "lora"
    rank: Count = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    targets: Annotated[
        str | tuple[str, ...], Field(description="all-linear, a regular expression, or module names")
    ] = "all-linear"
    options: Annotated[dict[str, Any], Field(description="the method's own (docs/methods.md)")] = {}
    epochs: Count = 1
    batch: Batch = Batch()
    optimizer: Optimizer = Optimizer()
    validation: Validation = Validation()
    launch: Launch = Launch()


class Also(Section):
    """Another adapter of the same base, for the merged model to hold as well."""

    adapter: Annotated[Word, Field(description="its folder, as `train` left it; absolute")]
    weight: float = 1.0


class MergeParams(Section):
    dtype: Annotated[Literal["base", "float32", "float16", "bfloat16"], Field(description="of the merged weights")] = (
        "base"
    )
    onto: Annotated[
        Literal["auto", "original", "trained"],
        Field(
            description="where training held the base in fewer bits: into the 16-bit base, or into what training saw of it; "
            "auto: the one with the lower held-out loss"
        ),
    ] = "auto"
    bound: Annotated[
        float, Field(gt=0, description="mean divergence of the merged model from base and adapter, nats, at most")
    ] = 0.01
    also: Annotated[tuple[Also, ...], Field(description="more adapters of the same base, combined with this one")] = ()
    weight: Annotated[float, Field(description="of this run's own adapter, beside others")] = 1.0
    combine: Annotated[
        Literal[
            "linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd",
            "magnitude_prune", "magnitude_prune_svd",
        ],
        Field(description="how, as PEFT's add_weighted_adapter names it; cat and svd take adapters of different ranks"),
    ] = "cat"  # fmt: skip
    density: Annotated[float, Field(gt=0, le=1, description="share that ties, dare and magnitude_prune keep")] = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**31, description="of what dare drops")] = 7


class Budget(Section):
    """What a format may cost, against the 16-bit model it was made of; null: not asked. Beyond it, it is not published."""

    perplexity: Annotated[
        float | None, Field(gt=0, description="on held-out rows, divided by the 16-bit model's, at most")
    ] = 1.05
    kl: Annotated[float | None, Field(ge=0, description="mean divergence of next-token distributions, nats")] = 0.05
    kl_p99: Annotated[float | None, Field(ge=0, description="its 99th percentile over the tokens")] = None
    agreement: Annotated[
        float | None, Field(ge=0, le=1, description="share of tokens where both find the same one likeliest, at least")
    ] = 0.95
    drop: Annotated[
        float | None, Field(ge=0, description="of each metric on the test rows, the interval's far end, at most")
    ] = 0.05


class QuantizeParams(Section):
    """All written out: DVC watches them one by one, and names that params.yaml lacks would stop it."""

    formats: Annotated[tuple[Name, ...], Field(description="one file a format under tasks/ml/export/")]
    calibration: Annotated[Count, Field(description="training rows that a format may learn from")]
    held_out: Annotated[Count, Field(description="validation rows on which each try is measured")]
    second_try: Annotated[bool, Field(description="where a format breaks its budget, try the known remedies")]
    budget: Budget

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.formats)) != len(self.formats):
            raise ValueError("a format is listed twice")
        return self


class BertScore(Section):
    """The encoder of the metric `bertscore`."""

    encoder: Annotated[str | None, Field(description="its folder, as transformers saves it; absolute")] = None
    layer: Annotated[int | None, Field(ge=0, description="whose embeddings are matched; null: the last")] = None


class JudgeModel(Section):
    """The model that the metric `judge` asks, behind any endpoint that speaks OpenAI's chat completions."""

    url: Annotated[Word | None, Field(description="https://HOST/v1; http on this machine alone")] = None
    model: Annotated[Word | None, Field(description="its name there")] = None
    prompt: Annotated[
        Word | None,
        Field(description="with {request}, {a} and {b}; replies have to be A, B or tie; null: the built-in one"),
    ] = None
    concurrency: Annotated[int, Field(ge=1, le=256, description="questions asked at once")] = 4


class EvaluateParams(Section):
    metrics: Annotated[
        tuple[Metric, ...],
        Field(min_length=1, description="folders of tasks/ml/metrics/, or functions as my_package.my_module:function"),
    ] = ("exact_match", "token_f1", "rouge_l", "chrf")
    bertscore: BertScore = BertScore()
    judge: JudgeModel = JudgeModel()
    suites: Annotated[
        tuple[Name, ...], Field(description="files of data/suites/ that every model answers as well")
    ] = ()
    suite_items: Annotated[
        Count | None, Field(description="of each category and language, by the items' digests; null: all")
    ] = None
    engine: Annotated[
        Engine,
        Field(description="for Hugging Face folders; auto: vllm where it is installed and there is an NVIDIA GPU"),
    ] = "auto"
    max_new_tokens: Count = 64
    batch_size: Annotated[Count, Field(description="rows generated together")] = 16
    latency_rows: Annotated[int, Field(ge=0, description="asked one at a time, for the time that a user waits")] = 8


class ReportParams(Section):
    samples: Annotated[int, Field(ge=0, description="generations shown beside their references")] = 8


class PublishParams(Section):
    name: Annotated[Name, Field(description="the model's name in the registry")] = "model"

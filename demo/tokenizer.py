"""The embedded model's tokenizer: byte-level BPE as in Qwen2, trained on the text of the closed world."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# NOTE: as in Qwen2.5 the two tool tags are added tokens but not "special" ones, so text without special tokens still
# contains them and a tool-call parser can find them.
TOOL_TAGS = ("<tool_call>", "</tool_call>")
CONTROL_TOKENS = (END_OF_TEXT, IM_START, IM_END, *TOOL_TAGS)

TEMPLATE = Path(__file__).parent / "chat_template.jinja"

# transformers.models.qwen2.tokenization_qwen2.PRETOKENIZE_REGEX: every digit is a separate token.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most ``vocab_size`` tokens, the control tokens at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, special=t not in TOOL_TAGS) for t in CONTROL_TOKENS]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out: Path, max_length_tokens: int) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and the chat template into ``out``."""
    tokenizer.save(str(out / "tokenizer.json"))
    shutil.copyfile(TEMPLATE, out / "chat_template.jinja")
    config: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "model_max_length": max_length_tokens,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

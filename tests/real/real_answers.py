"""What peft and transformers say to the prompts that the server answers: the reference, in float32."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class RealModel:
    """The base model's folder: a tokenizer, and the model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @cached_property
    def base(self) -> Any:
        """The base model; adapters change copies of it."""
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, local_files_only=True)
        return model.eval()

    def prompt(self, messages: list[dict[str, str]], tools: list[Any] | None = None) -> list[int]:
        """The token ids that the chat template makes of the messages."""
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, return_dict=False
        )
        return ids

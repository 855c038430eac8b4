"""Padding by position, never by id."""

from __future__ import annotations

import torch

from adapters.training.data.chat_template import IGNORED, Sample
from adapters.training.data.collator import collate


def test_padding_equal_to_the_end_token_keeps_the_end_label() -> None:
    end = pad = 9
    batch = collate(
        [Sample((1, 2, end), (IGNORED, 2, end)), Sample((1, 4, 5, 6, end), (IGNORED, 4, 5, 6, end))], pad
    )
    assert batch["input_ids"].tolist() == [[1, 2, 9, 9, 9], [1, 4, 5, 6, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 9, -100, -100], [-100, 4, 5, 6, 9]]
    assert batch["labels"].dtype == torch.long
    assert set(batch) == {"input_ids", "labels"}

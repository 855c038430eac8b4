"""The companion trainer: from a JSONL of chats to a PEFT adapter that the server loads unchanged.

``train.train`` calls the rooms in this order: ``data`` (chats to token ids and labels) -> ``model`` (base, LoRA,
memory) -> ``loop`` (transformers' Trainer) -> ``evaluation`` and ``monitoring`` -> ``export`` (the adapter folder).
``check`` validates a data file without training; ``quantization`` makes a 4-bit base.
"""

import logging

# peft imports bitsandbytes, which warns when an optional package of kernels is missing.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

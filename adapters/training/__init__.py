"""The companion trainer: from a JSONL of chats to a PEFT adapter that the server loads unchanged.

Reads top to bottom: ``data`` (what was said) -> ``conversation`` (ids and labels) -> ``lora`` (what is
trained) -> ``loop`` (how) -> ``evaluate`` (how well) -> ``output`` (the folder). ``run.train`` joins them.
"""

import logging

# bitsandbytes, which peft imports, looks for an optional package of kernels and complains when there is none.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

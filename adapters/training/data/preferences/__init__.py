"""Better and worse answers to the same prompts: rows of files, pairs of token ids."""

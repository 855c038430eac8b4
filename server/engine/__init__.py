"""Everything that touches vLLM: its arguments, its handlers, its scheduler and its CPU LoRA layers."""

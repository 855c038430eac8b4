"""All code that imports vLLM: engine arguments, API handlers, scheduler and CPU LoRA layers."""

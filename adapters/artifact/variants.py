"""The kinds of adapters that PEFT 0.21 can write: which of them are plain LoRA when they are loaded.

The table of `init_lora_weights` is read from PEFT's `LoraLayer.update_layer` and the functions that it calls. Loading
into vLLM gives the trained result if and only if the initialization left the weights of the base model as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.artifact.files import printable_value
from adapters.errors import ArtifactRefused

RETRAIN = "retrain as plain LoRA"

#: Values of `init_lora_weights` that set only the first values of A and B.
_PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica"}
#: Values with which PEFT takes the first B·A out of the base model's weights. PEFT can convert these adapters.
_CONVERTIBLE_INITS = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
}
_CONVERT = (
    "Convert it: save the adapter before training with its init_lora_weights set to True, and after training "
    "call save_pretrained(…, path_initial_model_for_weight_conversion=<that folder>); "
    "or retrain with init_lora_weights=True."
)

_REFUSED: dict[str, str] = {
    "use_dora": f"DoRA cannot be served; {RETRAIN} with use_dora=False.",
    "lora_bias": f"LoRA with biases cannot be served; {RETRAIN} with lora_bias=False.",
    "trainable_token_indices": (
        f"Trained tokens (trainable_token_indices) cannot be served; {RETRAIN} without new tokens."
    ),
    "target_parameters": (
        f"target_parameters cannot be served; {RETRAIN} and name the layers in target_modules."
    ),
    "alora_invocation_tokens": f"Activated LoRA (aLoRA) cannot be served; {RETRAIN}.",
    "layer_replication": f"layer_replication cannot be served; {RETRAIN} on the base as it is.",
    "use_bdlora": f"Block-diagonal LoRA (use_bdlora) cannot be served; {RETRAIN}.",
    "use_qalora": f"QALoRA (use_qalora) cannot be served; {RETRAIN} (QLoRA is fine).",
    "arrow_config": f"Arrow routing (arrow_config) cannot be served; {RETRAIN}.",
    "velora_config": f"VeLoRA (velora_config) cannot be served; {RETRAIN}.",
    "kasa_config": f"KaSA (kasa_config) cannot be served; {RETRAIN}.",
    "monteclora_config": f"MonteCLoRA (monteclora_config) cannot be served; {RETRAIN}.",
}
_IGNORABLE = {
    "use_rslora",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "loftq_config",
    "runtime_config",
    "megatron_config",
}


def check_kind(config: Mapping[str, Any]) -> None:
    """Check that the configuration is of a LoRA that generates text. Raises: ArtifactRefused."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ArtifactRefused(
            f"This is a {printable_value(kind)} adapter; only LoRA can be served. Convert it with PEFT's "
            f"save_as_lora, if PEFT can convert this kind, or {RETRAIN}."
        )
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ArtifactRefused(
            f"The adapter was trained for {printable_value(task)}; this server generates text, "
            "retrain with task_type CAUSAL_LM."
        )


def check_variants(config: Mapping[str, Any]) -> None:
    """Check that the adapter is a plain LoRA. Raises: ArtifactRefused."""
    for name, sentence in _REFUSED.items():
        if config.get(name):
            raise ArtifactRefused(sentence)
    bias = config.get("bias", "none")
    if bias != "none":
        raise ArtifactRefused(f"bias={printable_value(bias)} cannot be served; {RETRAIN} with bias='none'.")
    if saved := config.get("modules_to_save"):
        raise ArtifactRefused(
            f"Fully trained modules (modules_to_save: {printable_value(saved)}) cannot be served; "
            f"{RETRAIN} without modules_to_save."
        )
    _check_init(config.get("init_lora_weights", True))
    for name, value in config.items():
        unknown = name.startswith("use_") or name.endswith("_config")
        if unknown and value and name not in _IGNORABLE and name not in _REFUSED:
            raise ArtifactRefused(
                f"{printable_value(name)} asks for a LoRA variant that this server does not know; {RETRAIN}."
            )


def _check_init(init: object) -> None:
    """NOTE: vLLM takes "lora_ga", and serves the trained adapter on weights that it was not trained on."""
    if init is None or isinstance(init, bool):
        return
    name = init.lower() if isinstance(init, str) else ""
    if name in _PLAIN_INITS:
        return
    given = f"init_lora_weights={printable_value(init)}"
    method = _CONVERTIBLE_INITS.get("pissa" if name.startswith("pissa_niter_") else name)
    if method is not None:
        raise ArtifactRefused(
            f"{given}: {method} moved a part of the base model's weights into the adapter, which would count "
            f"twice on the base as it is. {_CONVERT}"
        )
    if name == "loftq":
        raise ArtifactRefused(
            f"{given}: LoftQ trained the adapter on a quantized copy of the base model that it made itself, so "
            "it does not fit the served base, and PEFT cannot convert it; retrain with init_lora_weights=True "
            "(QLoRA is fine)."
        )
    raise ArtifactRefused(
        f"{given} is not a value that this server knows, so it cannot tell whether the base model was changed "
        "in training; retrain with init_lora_weights=True."
    )

"""Adapters of every kind that PEFT 0.21 writes, "trained" by noise on the weights that PEFT trains.

A kind is a function from a fresh base model to the model that was trained, which saves its adapter in a folder. The
reference is that model, not what PEFT loads from the folder: some initializations change the base model in training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM

import demo

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FEW = ["q_proj", "down_proj"]  # where building takes long
SIZE = 0.02  # of the noise that stands for a training
TOKENS = torch.arange(64).reshape(2, 32) * 37 % 3200  # what initializations see that look at data

Build = Callable[[Any, Path], Any]


@dataclass(frozen=True)
class Kind:
    """How to build an adapter, and the part of the sentence with which it is refused; None: it is served."""

    build: Build
    told: str | None = None


def base_model() -> Any:
    """The demo's base model in float32, as the demo server computes."""
    return AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32).eval()


def lora(**changes: Any) -> LoraConfig:
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "task_type": "CAUSAL_LM"}
    return LoraConfig(**{**fields, **changes})


def train(model: Any, size: float | None = None) -> Any:
    """Move every trainable weight, always by the same noise."""
    size = SIZE if size is None else size
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=noise)
    return model.eval()


def trained(config: Any, **saving: Any) -> Build:
    """A kind that needs no more than its configuration."""

    def build(base: Any, folder: Path) -> Any:
        model = train(get_peft_model(base, config))
        model.save_pretrained(folder, **saving)
        return model

    return build


def converted(prepare: Callable[[Any, LoraConfig], None], config: LoraConfig) -> Build:
    """A kind that moves weights of the base model into the adapter, and is converted after the training."""

    def build(base: Any, folder: Path) -> Any:
        prepare(base, config)
        model = get_peft_model(base, copy.deepcopy(config))
        init = model.peft_config["default"].init_lora_weights
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(folder / "init")
        model.peft_config["default"].init_lora_weights = init
        train(model).save_pretrained(folder, path_initial_model_for_weight_conversion=str(folder / "init"))
        return model

    return build


def unconverted(prepare: Callable[[Any, LoraConfig], None], config: LoraConfig) -> Build:
    def build(base: Any, folder: Path) -> Any:
        prepare(base, config)
        return trained(copy.deepcopy(config))(base, folder)

    return build


def nothing(base: Any, config: LoraConfig) -> None: ...


def see_gradients(base: Any, config: LoraConfig) -> None:
    peft.preprocess_loraga(base, config, lambda: base(input_ids=TOKENS, labels=TOKENS).loss.backward())


def see_covariances(base: Any, config: LoraConfig) -> None:
    preprocess_corda(base, config, run_model=lambda: base(input_ids=TOKENS[:1]))


def eva(base: Any, folder: Path) -> Any:
    """EVA gives each layer its own rank and alpha."""
    model = get_peft_model(
        base, lora(target_modules=FEW, init_lora_weights="eva", eva_config=peft.EvaConfig(rho=2.0))
    )
    batches = [{"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}] * 8
    peft.initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    train(model).save_pretrained(folder)
    return model


def sixteen_bits(base: Any, folder: Path) -> Any:
    model = train(get_peft_model(base, lora()))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16()
    model.save_pretrained(folder)
    return model.float()


def combined(base: Any, folder: Path) -> Any:
    """Two adapters as one of the sum of their ranks."""
    model = train(get_peft_model(base, lora(r=2)))
    model.add_adapter("other", lora(r=4, lora_alpha=4, init_lora_weights=False))
    model.add_weighted_adapter(["default", "other"], [1.0, 0.5], "both", combination_type="cat")
    model.set_adapter("both")
    model.save_pretrained(folder / "all", selected_adapters=["both"])
    (folder / "all" / "both").rename(folder / "both")
    for file in (folder / "both").iterdir():
        file.rename(folder / file.name)
    return model.eval()


def approximated(base: Any, folder: Path) -> Any:
    """A LoHa that PEFT converts to LoRA; the reference is the LoRA."""
    loha = train(
        get_peft_model(base, peft.LoHaConfig(r=2, alpha=4, target_modules=["q_proj", "v_proj"])), 0.2
    )
    peft.save_as_lora(folder, loha, rank=8)
    return peft.PeftModel.from_pretrained(base_model(), folder).eval()


def backup(base: Any, folder: Path) -> Any:
    """As LLaMA-Factory saves `pissa_backup`: nothing in the files says what it is."""
    model = train(get_peft_model(base, lora(target_modules=FEW, init_lora_weights="pissa")))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder)
    return model


def in_a_sub_folder(base: Any, folder: Path) -> Any:
    """PEFT saves an adapter of another name in a folder of that name."""
    model = train(get_peft_model(base, lora(), adapter_name="support"))
    model.save_pretrained(folder)
    return model


def with_own_names(base: Any, folder: Path) -> Any:
    """The model's own state dictionary has the adapter's name in each key."""
    model = trained(lora())(base, folder)
    factors = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    save_file(factors, folder / "adapter_model.safetensors")
    return model


def merged(base: Any, folder: Path) -> Any:
    model = train(get_peft_model(base, lora())).merge_and_unload()
    model.save_pretrained(folder)
    return model


def merged_in_an_adapters_file(base: Any, folder: Path) -> Any:
    model = trained(lora())(base, folder)
    whole = model.merge_and_unload().state_dict()
    save_file({n: v.clone() for n, v in whole.items()}, folder / "adapter_model.safetensors")
    return model


def compiled(base: Any, folder: Path) -> Any:
    return trained(lora())(torch.compile(base), folder)


def with_more_tokens(base: Any, folder: Path) -> Any:
    base.resize_token_embeddings(base.config.vocab_size + 8)
    return trained(lora(), save_embedding_layers=True)(base, folder)


def without_a_head(base: Any, folder: Path) -> Any:
    return trained(lora(task_type=None))(
        AutoModel.from_pretrained(demo.MODEL_DIR, dtype=torch.float32), folder
    )


def untrained(base: Any, folder: Path) -> Any:
    get_peft_model(base, lora()).save_pretrained(folder)


GA = lora(target_modules=FEW, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())
CORDA = lora(target_modules=FEW, init_lora_weights="corda", corda_config=CordaConfig())
REGEX = r".*\.layers\.(0|2)\.(?:self_attn\.[qk]|mlp\.up)_proj"

SERVED: dict[str, Kind] = {
    "plain": Kind(trained(lora())),
    "all-linear": Kind(trained(lora(target_modules="all-linear"))),
    "attention only": Kind(trained(lora(target_modules=ALL[:4]))),
    "k and gate only": Kind(trained(lora(target_modules=["k_proj", "gate_proj"]))),
    "modules by a regular expression": Kind(trained(lora(target_modules=REGEX))),
    "excluded modules": Kind(trained(lora(exclude_modules=["layers.1.mlp.up_proj", "o_proj"]))),
    "some layers": Kind(trained(lora(layers_to_transform=[0, 3], layers_pattern="layers"))),
    "one layer": Kind(trained(lora(layers_to_transform=2))),
    "dropout": Kind(trained(lora(lora_dropout=0.3))),
    "rank 12, alpha 6.5": Kind(trained(lora(r=12, lora_alpha=6.5))),
    "rank 1": Kind(trained(lora(r=1))),
    "rsLoRA": Kind(trained(lora(r=16, use_rslora=True))),
    "patterns of names": Kind(
        trained(lora(rank_pattern={"q_proj": 8, "layers.1.mlp.up_proj": 2}, alpha_pattern={"v_proj": 3}))
    ),
    "patterns from the start": Kind(
        trained(
            lora(
                rank_pattern={"^model.layers.0.self_attn.q_proj": 16}, alpha_pattern={"^model.layers.3.*": 1}
            )
        )
    ),
    "patterns with alternatives and look-ahead": Kind(
        trained(
            lora(
                rank_pattern={REGEX: 8, r"(?:.*\.)?layers\.\d+\.mlp\.(?!down)\w+": 2},
                alpha_pattern={r".*\.(?P<leaf>q_proj|down_proj)": 24, r"layers\.[13]\..*(?:k|v)_proj": 2},
                use_rslora=True,
            )
        )
    ),
    "gaussian": Kind(trained(lora(init_lora_weights="gaussian"))),
    "orthogonal": Kind(trained(lora(init_lora_weights="orthogonal"))),
    "random": Kind(trained(lora(init_lora_weights=False))),
    "MiCA": Kind(trained(lora(target_modules=FEW, init_lora_weights="mica"))),
    "EVA": Kind(eva),
    "PiSSA, converted": Kind(converted(nothing, lora(target_modules=FEW, init_lora_weights="pissa"))),
    "PiSSA with patterns, converted": Kind(
        converted(
            nothing,
            lora(
                target_modules=FEW,
                init_lora_weights="pissa_niter_4",
                rank_pattern={"q_proj": 2},
                alpha_pattern={"down_proj": 3},
            ),
        )
    ),
    "OLoRA with rsLoRA, converted": Kind(
        converted(nothing, lora(target_modules=FEW, init_lora_weights="olora", use_rslora=True))
    ),
    "CorDA, converted": Kind(converted(see_covariances, CORDA)),
    "LoRA-GA, converted": Kind(converted(see_gradients, GA)),
    "16 bits": Kind(sixteen_bits),
    "two adapters combined": Kind(combined),
    "LoHa as LoRA": Kind(approximated),
}

_MOVED = "moved a part of the base model's weights into the adapter"
REFUSED: dict[str, Kind] = {
    "PiSSA": Kind(trained(lora(target_modules=FEW, init_lora_weights="pissa")), f"PiSSA {_MOVED}"),
    "fast PiSSA": Kind(
        trained(lora(target_modules=FEW, init_lora_weights="pissa_niter_4")), f"PiSSA {_MOVED}"
    ),
    "OLoRA": Kind(trained(lora(target_modules=FEW, init_lora_weights="olora")), f"OLoRA {_MOVED}"),
    "CorDA": Kind(unconverted(see_covariances, CORDA), f"CorDA {_MOVED}"),
    "LoRA-GA": Kind(unconverted(see_gradients, GA), "path_initial_model_for_weight_conversion=<that folder>"),
    "DoRA": Kind(trained(lora(use_dora=True)), "use_dora=False"),
    "all biases": Kind(trained(lora(bias="all")), "bias='none'"),
    "biases of the layers": Kind(trained(lora(bias="lora_only")), "bias='none'"),
    "biases of B": Kind(trained(lora(lora_bias=True)), "lora_bias=False"),
    "a trained head": Kind(trained(lora(modules_to_save=["lm_head"])), "without modules_to_save"),
    "trained norms": Kind(trained(lora(modules_to_save=["norm"])), "without modules_to_save"),
    "LoRA on the head": Kind(
        trained(lora(target_modules=[*ALL, "lm_head"])), "lm_head cannot be served on Qwen2"
    ),
    "LoRA on the embedding": Kind(
        trained(lora(target_modules=[*ALL, "embed_tokens"])), "embed_tokens cannot be served on Qwen2"
    ),
    "trained tokens": Kind(trained(lora(trainable_token_indices=[5, 6])), "without new tokens"),
    "target_parameters": Kind(
        trained(lora(target_modules=[], target_parameters=["mlp.up_proj.weight"])),
        "name the layers in target_modules",
    ),
    "aLoRA": Kind(trained(lora(alora_invocation_tokens=[7, 8])), "Activated LoRA"),
    "layer replication": Kind(trained(lora(layer_replication=[[0, 4], [2, 4]])), "on the base as it is"),
    "block-diagonal": Kind(
        trained(
            lora(
                target_modules=FEW,
                use_bdlora=peft.BdLoraConfig(
                    target_modules_bd_a=["down_proj"], nblocks=2, match_strict=False
                ),
            )
        ),
        "Block-diagonal LoRA",
    ),
    "KaSA": Kind(trained(lora(target_modules=FEW, kasa_config=peft.KasaConfig())), "KaSA"),
    "VeLoRA": Kind(trained(lora(velora_config=peft.VeloraConfig(num_groups=8))), "VeLoRA"),
    "MonteCLoRA": Kind(
        trained(lora(target_modules=FEW, monteclora_config=peft.MontecloraConfig())), "MonteCLoRA"
    ),
    "LoHa": Kind(trained(peft.LoHaConfig(r=4, target_modules=ALL)), "This is a LOHA adapter"),
    "LoKr": Kind(trained(peft.LoKrConfig(r=4, target_modules=ALL)), "Convert it with PEFT's save_as_lora"),
    "AdaLoRA": Kind(
        trained(peft.AdaLoraConfig(target_modules=ALL, total_step=9)), "This is a ADALORA adapter"
    ),
    "IA3": Kind(
        trained(peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
        "IA3",
    ),
    "VeRA": Kind(trained(peft.VeraConfig(r=4, target_modules=["q_proj"])), "This is a VERA adapter"),
    "prompt tuning": Kind(
        trained(peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)), "PROMPT_TUNING"
    ),
    "prefix tuning": Kind(
        trained(peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)), "PREFIX_TUNING"
    ),
    "another task": Kind(trained(lora(task_type="FEATURE_EXTRACTION")), "retrain with task_type CAUSAL_LM"),
    "rank 24": Kind(trained(lora(r=24)), "restart with --max-lora-rank 32"),
    "rank 24 by pattern": Kind(
        trained(lora(rank_pattern={".*q_proj": 24})), "restart with --max-lora-rank 32"
    ),
    "pickle": Kind(trained(lora(), safe_serialization=False), "safe_serialization=True"),
    "in a sub-folder": Kind(in_a_sub_folder, "in its sub-folder support; give the path of that folder"),
    "the adapter's name in its keys": Kind(with_own_names, "contain the adapter's name (default)"),
    "merged": Kind(merged, "This is a whole model (as merging an adapter makes it)"),
    "merged, in an adapter's file": Kind(merged_in_an_adapters_file, "this is a merged or a whole model"),
    "compiled": Kind(compiled, "left there by torch.compile"),
    "more tokens": Kind(with_more_tokens, "without modules_to_save, new tokens"),
    "without a head": Kind(without_a_head, "train on AutoModelForCausalLM, not AutoModel"),
    "untrained": Kind(untrained, "it was saved before training"),
}

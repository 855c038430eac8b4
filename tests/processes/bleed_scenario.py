"""Run as a program: base and three adapters in one batch, each answer compared with its solo answer.

Prints one JSON object: `wrapper` (who multiplied), `answers`, `wrong` (labels of the answers that differ
from the solo ones) and `alike` (adapters whose solo answers are the base's, so that nothing is shown).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from vllm import LLM, RequestOutput, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

ANSWER_TOKENS = 12
DRAWS = 10
"""Prompts that are tried for each length."""
TIE = 1e-3
"""Two tokens whose log-probabilities are this close may swap when a batch adds up in another order."""

Request = tuple[int, LoRARequest | None]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, nargs="+", required=True)
    parser.add_argument("--mixes", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    adapters = [LoRARequest(path.name, n + 1, str(path)) for n, path in enumerate(options.adapters)]
    vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
    llm = start(options.model, len(adapters))
    choices: list[LoRARequest | None] = [None, *adapters]
    prompts: list[list[int]] = []
    solo: dict[tuple[int, str], RequestOutput] = {}
    for index, length in enumerate((1, 2, 5, 9, 17, 40)):
        # To some prompts all answer alike, which would show nothing: another is drawn.
        for _ in range(DRAWS):
            prompts[index:] = [[chance.randrange(vocabulary) for _ in range(length)]]
            answered = {name_of(a): generate(llm, prompts, [(index, a)])[0] for a in choices}
            if not alike(answered):
                break
        solo |= {(index, name): answer for name, answer in answered.items()}
    wrong, answers = [], 0
    for mix in range(options.mixes):
        batch = [(chance.randrange(len(prompts)), adapter) for adapter in choices * 3]
        chance.shuffle(batch)
        for (index, adapter), got in zip(batch, generate(llm, prompts, batch), strict=True):
            answers += 1
            if differs(solo[index, name_of(adapter)], got):
                wrong.append(f"mix {mix}: {name_of(adapter)}")
    report = {
        "wrapper": current_platform.get_punica_wrapper(),
        "answers": answers,
        "wrong": wrong,
        "alike": [
            name
            for index in range(len(prompts))
            for name in alike({name_of(a): solo[index, name_of(a)] for a in choices})
        ],
    }
    print(json.dumps(report))


def start(model: Path, slots: int) -> LLM:
    """Start an engine in this process, with no empty slot and chunks that split the longer prompts."""
    return LLM(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        enable_lora=True,
        max_loras=slots,
        max_lora_rank=16,
        max_model_len=128,
        max_num_seqs=16,
        max_num_batched_tokens=48,
        kv_cache_memory_bytes=64 * 1024**2,
        enable_prefix_caching=False,
        seed=0,
    )


def alike(answered: dict[str, RequestOutput]) -> list[str]:
    """Adapters whose answer to a prompt is the base's."""
    tokens = {name: tuple(answer.outputs[0].token_ids) for name, answer in answered.items()}
    return [name for name, ids in tokens.items() if name != "base" and ids == tokens["base"]]


def name_of(adapter: LoRARequest | None) -> str:
    return adapter.lora_name if adapter else "base"


def generate(llm: LLM, prompts: list[list[int]], batch: list[Request]) -> list[RequestOutput]:
    """Answer a batch greedily, with the two best log-probabilities of each token."""
    params = SamplingParams(
        temperature=0, max_tokens=ANSWER_TOKENS, ignore_eos=True, logprobs=2, detokenize=False
    )
    return llm.generate(
        [{"prompt_token_ids": prompts[index]} for index, _ in batch],
        params,
        lora_request=[adapter for _, adapter in batch],
        use_tqdm=False,
    )


def differs(solo: RequestOutput, got: RequestOutput) -> bool:
    """Whether the answers part at a token that was no tie when the request ran alone."""
    mine, theirs = solo.outputs[0], got.outputs[0]
    for position, (left, right) in enumerate(zip(mine.token_ids, theirs.token_ids, strict=True)):
        if left != right:
            best = sorted((entry.logprob for entry in mine.logprobs[position].values()), reverse=True)
            return best[0] - best[1] > TIE
    return False


if __name__ == "__main__":
    main()

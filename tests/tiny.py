"""Very small random checkpoints with a byte tokenizer, made in a second, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from valuealign.prompts import ask
from valuealign.types import Cell, Message

QUESTIONS = ("How much do you like tea?", "Is rain good?", "Do you trust maps?", "How far is far?", "Who sings?")
SCALE = ("low", "mid", "top")

# Chat templates as the families have them, less what these tests do not need (tools, reasoning in the history).
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEMPLATES = {"llama": None, "qwen3": CHATML, "qwen3_moe": CHATML, "gemma2": GEMMA}
CONTROL = ("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|eot_id|>", "<|start|>", "<|stop|>")
MORE: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma2": {"head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0},
}
ARCHITECTURES = tuple(MORE)


def byte_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A token for each byte, and the control tokens of several families."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *alphabet, *CONTROL])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(CONTROL),
        chat_template=chat_template,
    )


def make_tiny(
    folder: Path, kind: str = "llama", *, seed: int = 0, width: int = 32, layers: int = 2, **more: Any
) -> Path:
    """Write a checkpoint of one of ARCHITECTURES into ``folder``; ``more`` goes into its configuration."""
    tokenizer = byte_tokenizer(TEMPLATES[kind])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **MORE[kind] | more,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def random_adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """Write an adapter that changes every layer, so that each version over ``base`` answers in its own way."""
    from peft import get_peft_model_state_dict

    from valuealign.models.adapters import add_adapter, write_adapter
    from valuealign.models.load import load_base

    model = add_adapter(load_base(str(base)).model, r=4, alpha=8.0, seed=seed)
    state = get_peft_model_state_dict(model)
    generator = torch.Generator().manual_seed(seed)
    state = {key: torch.randn(value.shape, generator=generator) * 0.5 for key, value in state.items()}
    write_adapter(state, model.peft_config["default"], folder, base="tiny")
    return folder


def survey_cells(n: int = 6) -> tuple[Cell, ...]:
    """Closed cells with different wordings, groups and shares."""
    shares = ((0.2, 0.3, 0.5), (0.6, 0.3, 0.1), (0.1, 0.8, 0.1), (0.25, 0.25, 0.5), (0.7, 0.1, 0.2))
    return tuple(
        Cell(
            ask(QUESTIONS[i % 5], SCALE, "a farmer" if i % 2 else ""),
            SCALE,
            shares[i % 5],
            (0.0, 0.0, 0.0),
            closed=True,
            n_eff=40.0 + 10 * i,
            positions=(0.0, 1.0, 3.0),
        )
        for i in range(n)
    )


def behaviour_cells(n: int = 5) -> tuple[Cell, ...]:
    """Open cells whose answers carry desirable and undesirable mass, some both."""
    return tuple(
        Cell(
            (Message("user", f"{QUESTIONS[i % 5]} Say more. {i}"),),
            ("Be kind to all.", "Win at any cost.", "Wait and see.")[: 2 + i % 2],
            (3.0 + i, 1.0, 0.5)[: 2 + i % 2],
            (0.5, 2.0 + i, 1.0)[: 2 + i % 2],
        )
        for i in range(n)
    )

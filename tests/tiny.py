"""A very small random Llama checkpoint with a byte tokenizer, made in a second, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from valuealign.prompts import ask
from valuealign.types import Cell, Message

QUESTIONS = ("How much do you like tea?", "Is rain good?", "Do you trust maps?", "How far is far?", "Who sings?")
SCALE = ("low", "mid", "top")


def make_tiny(folder: Path, *, seed: int = 0, width: int = 32, layers: int = 2) -> Path:
    """Write the checkpoint into ``folder``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
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

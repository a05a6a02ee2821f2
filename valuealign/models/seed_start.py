"""Where pretraining starts from: a rough circuit for copying, set by hand in the first two layers."""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

STD = 0.05  # of the embeddings
LOOK, MATCH = 2.0, 2.0  # how sharply the two layers attend, chosen by trial
THETA = 10_000.0  # rotary base, Llama's default


@torch.no_grad()
def wire_copying(model: LlamaForCausalLM, *, turn: int, option: int) -> None:
    """Set the weights of a copying circuit, so that training need not find one within its small budget.

    Layer 0: half of the heads look one token back (by rotary phase; dimension 0 of every embedding is a constant
    that they key on) and note that token's first dimensions in the upper half of the stream. Layer 1: every head
    looks for places whose note matches the current token, and writes what stands there ("induction heads",
    Olsson et al. 2022). All else starts at random or, where it writes to the stream, at zero. The token ``turn``,
    which opens the assistant's turn, starts out like ``option``, which opens a listed option. Training refines it.
    """
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    size, half = width // heads, width // 2
    embedding_VD = model.model.embed_tokens.weight
    embedding_VD.normal_(0.0, STD)
    embedding_VD[turn] = 0.9 * embedding_VD[option] + 0.4 * embedding_VD[turn]
    embedding_VD[:, 0] = 4 * STD
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    angle = THETA ** (-torch.arange(size // 2) / (size // 2))
    fast = (angle > 0.1).float()  # rotations that tell neighbours apart
    slow = torch.cat([angle < 0.03] * 2).nonzero().flatten()  # rotations that hardly move over a prompt
    back, match = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        if head < heads // 2:
            back.q_proj.weight[own, 0] = LOOK * torch.cat([fast * angle.cos(), -fast * angle.sin()])
            back.k_proj.weight[own, 0] = LOOK * torch.cat([fast, 0 * fast])
            back.v_proj.weight[own, own] += torch.eye(size)
            back.o_proj.weight[half + head * size : half + (head + 1) * size, own] += 2 * STD * torch.eye(size)
        reads = (torch.arange(len(slow)) + head * len(slow)) % (half - 1) + 1
        match.q_proj.weight[head * size + slow, reads] += MATCH
        match.k_proj.weight[head * size + slow, half + reads] += MATCH
        match.v_proj.weight[own, own] += torch.eye(size)
        match.o_proj.weight[own, own] += 2 * STD * torch.eye(size)

"""The seed model: a small Llama-type model that the project pretrains on text of its own making.

It reads English, answers a closed question with one of the listed options (each alike: it has learnt
no public's opinion) and an open one with a short sentence. ``ensure_seed`` makes it once, on the CPU,
and keeps it under ``VALUEALIGN_HOME``. docs/seed-model.md says what it can do, and how long making it took.

Shape letters: ``B`` rows, ``T`` tokens of a row, ``S`` scored tokens, ``V`` vocabulary, ``D`` width.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from valuealign import config, prompts
from valuealign.errors import ModelError
from valuealign.models.seed_start import wire_copying
from valuealign.models.seed_text import Sample, samples

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('a turn is system, user or assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# "\n- " is a piece of its own, so that a listed option has the same tokens in the list and in the answer.
PIECES = r"\n- |\n| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"
OPTION = "\n- "
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
RECORD = "seed.json"


def _sources() -> tuple[Path, ...]:
    """The files that decide the text, the tokens, the first weights and the training."""
    here = Path(__file__).parent
    return (here.parent / "prompts" / "chat.py", *sorted(f for f in here.glob("seed*.py") if f.name != "seed_exam.py"))


def source_hash(files: Iterable[Path]) -> str:
    """Hash (hex) of the files' names and contents, wherever they lie."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


SOURCES = source_hash(_sources())  # once, at import: of the code that runs, not of a later edit
# The form of the seed text's closed chats. The other templates of prompts.yaml decide nothing here.
FORM = [prompts.ask("question", ["one", "two"], group) for group in ("", "group")]


@dataclass(frozen=True, kw_only=True)
class SeedRecipe:
    """All that decides the seed model, besides library versions and the thread count.

    ``batch`` rows of ``row`` tokens make a step. ``peak`` is the highest learning rate (warm-up
    over ``warmup`` of the steps, then a cosine to a twentieth). ``prompt_weight`` is what a token
    of a prompt counts in the loss, beside 1 for a token of a completion.
    """

    seed: int = 0
    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 344
    positions: int = 512
    tokenizer_samples: int = 6000
    steps: int = 420
    batch: int = 8
    row: int = 192
    peak: float = 1e-2
    warmup: float = 0.08
    weight_decay: float = 0.1
    clip: float = 1.0
    prompt_weight: float = 0.3

    def key(self) -> str:
        """Hash (16 hex characters) of the recipe, the sources, the libraries, the machine kind and the thread count."""
        made_with = [SOURCES, FORM, torch.__version__, transformers.__version__, tokenizers.__version__]
        text = json.dumps([asdict(self), made_with, platform.machine(), threads()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


SEED_RECIPE = SeedRecipe()


class Row(NamedTuple):
    """Samples packed into one row; ``sight`` says which token sees which."""

    ids: list[int]
    positions: list[int]
    sample: list[int]
    branch: list[int]
    scored: list[tuple[int, int, float]]  # (column whose state predicts, target token, weight)


def threads() -> int:
    """Threads that pretraining uses: two, or the one core there is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2, cores)


def ensure_seed(
    home: Path | None = None, *, recipe: SeedRecipe = SEED_RECIPE, progress: Callable[[str], None] = print
) -> Path:
    """The folder of the seed model (Hugging Face layout), made first where it is absent.

    ``home`` is ``VALUEALIGN_HOME`` by default. ``progress`` gets a line now and then while it is made.
    Safe to call from several processes at once: one makes it, the others wait. Raises ModelError where
    the folder cannot be written.
    """
    shelf = (home or config.home()) / "seed"
    folder = shelf / recipe.key()
    if is_complete(folder):
        return folder
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        with _alone(shelf / f".{folder.name}.lock"):
            if not is_complete(folder):
                _make(folder, recipe, progress)
    except OSError as error:
        raise ModelError(
            f"cannot write the seed model ({error.strerror or error})",
            where=str(shelf),
            mend="free some space or set VALUEALIGN_HOME to a folder that you may write",
        ) from error
    return folder


def is_complete(folder: Path) -> bool:
    """Whether the folder holds every file of a seed model at its full size."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == record["sizes"][name] for name in FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; where the file system knows no locks, the rename still decides."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def _make(folder: Path, recipe: SeedRecipe, progress: Callable[[str], None]) -> None:
    """Make the model in a folder aside, then rename it into place."""
    aside = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model, tokenizer = pretrain(recipe, progress)
        disable_progress_bar()
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        sizes = {name: (aside / name).stat().st_size for name in FILES}
        record = {"recipe": asdict(recipe), "sources": SOURCES, "threads": threads(), "sizes": sizes}
        (aside / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        aside.chmod(0o755)
        if folder.exists() and not is_complete(folder):
            folder.rename(aside.with_suffix(".broken"))
        try:
            aside.rename(folder)
        except OSError:
            if not is_complete(folder):  # else another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(aside.with_suffix(".broken"), ignore_errors=True)


def pretrain(
    recipe: SeedRecipe, progress: Callable[[str], None] = print
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make tokenizer and model from nothing, on the CPU; the same bytes each time on one machine and thread count."""
    progress(f"making the seed model: {recipe.steps} steps of {recipe.batch * recipe.row} tokens, once; it is kept")
    tokenizer = make_tokenizer(recipe)
    with _reproducible(recipe.seed):
        model = LlamaForCausalLM(model_config(recipe, tokenizer))
        option = tokenizer.encode(OPTION, add_special_tokens=False)
        wire_copying(model, turn=tokenizer.convert_tokens_to_ids(ROLES[2]), option=option[0])
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        _train(model, rows(recipe, tokenizer), recipe, progress)
    return model.eval(), tokenizer


def model_config(recipe: SeedRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The architecture, in Llama's terms."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )


def make_tokenizer(recipe: SeedRecipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the seed text: any text survives the round trip."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (PAD, BOS, EOS, *ROLES)]
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(recipe), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=recipe.positions,
    )


def _texts(recipe: SeedRecipe) -> Iterator[str]:
    for sample in islice(samples(recipe.seed), recipe.tokenizer_samples):
        yield from (message.content for message in sample.messages)
        yield from sample.completions


def rows(recipe: SeedRecipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[Row]:
    """An endless stream of rows, packed first-fit from the seed text."""
    waiting: list[Row] = []
    for sample in samples(recipe.seed):
        tokens = _tokens(sample, tokenizer)
        if tokens is None:
            continue
        prompt, branches = tokens
        size = len(prompt) + sum(map(len, branches))
        if size > recipe.row:
            continue
        row = next((row for row in waiting if len(row.ids) + size <= recipe.row), None)
        if row is None:
            row = Row([], [], [], [], [])
            waiting.append(row)
        _append(row, prompt, branches, recipe.prompt_weight)
        if len(waiting) > 4 * recipe.batch:
            yield waiting.pop(max(range(len(waiting)), key=lambda i: len(waiting[i].ids)))


def _tokens(sample: Sample, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[list[int]]]:
    """Token ids of the prompt and of each completion (EOS included), as ``prompts`` renders them."""
    return prompts.prompt_ids(sample.messages, tokenizer), [
        prompts.completion_ids(text, tokenizer) for text in sample.completions
    ]


def _append(row: Row, prompt: Sequence[int], branches: Sequence[Sequence[int]], prompt_weight: float) -> None:
    """Add a sample: the prompt once, then its completions, each seeing the prompt and itself."""
    number = row.sample[-1] + 1 if row.sample else 0
    for branch, tokens in enumerate((prompt, *branches)):
        start = len(row.ids)
        if branch == 0:
            base = start
        else:
            row.scored.append((base + len(prompt) - 1, tokens[0], 1.0))
        weight = prompt_weight if branch == 0 else 1.0
        row.scored.extend((start + i, token, weight) for i, token in enumerate(tokens[1:]))
        offset = 0 if branch == 0 else len(prompt)
        row.ids.extend(tokens)
        row.positions.extend(range(offset, offset + len(tokens)))
        row.sample.extend([number] * len(tokens))
        row.branch.extend([branch] * len(tokens))


def _optimizers(model: LlamaForCausalLM, recipe: SeedRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms (not compared with AdamW for all)."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=recipe.peak, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=recipe.peak, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [muon, adamw]


def _train(model: LlamaForCausalLM, source: Iterator[Row], recipe: SeedRecipe, progress: Callable[[str], None]) -> None:
    optimizers = _optimizers(model, recipe)
    began = time.monotonic()
    model.train()
    for step in range(recipe.steps):
        rate = learning_rate(recipe, step)
        loss = _loss(model, list(islice(source, recipe.batch)), recipe.row)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % max(1, recipe.steps // 12) == 0 or done == recipe.steps:
            seconds = time.monotonic() - began
            speed, left = done * recipe.batch * recipe.row / seconds, seconds / done * (recipe.steps - done)
            place = f"seed model: step {done}/{recipe.steps}  loss {loss.item():.3f}"
            progress(f"{place}  {speed:,.0f} tokens/s  {left:.0f} s left")


def learning_rate(recipe: SeedRecipe, step: int) -> float:
    """Warm-up, then a cosine from the peak to a twentieth of it."""
    warm = max(1.0, recipe.warmup * recipe.steps)
    if step < warm:
        return recipe.peak * (step + 1) / (warm + 1)
    share = (step - warm) / max(1.0, recipe.steps - warm)
    return recipe.peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def _loss(model: LlamaForCausalLM, batch: Sequence[Row], width: int) -> Tensor:
    """Weighted mean of -log p (nats) over the scored tokens of the rows."""

    def padded(lists: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*values, *[fill] * (width - len(values))] for values in lists])

    ids_BT = padded([row.ids for row in batch], 0)
    positions_BT = padded([row.positions for row in batch], 0)
    mask_BTT = sight(padded([row.sample for row in batch], -1), padded([row.branch for row in batch], 0))
    hidden_BTD = model.model(
        input_ids=ids_BT, position_ids=positions_BT, attention_mask=mask_BTT[:, None], use_cache=False
    ).last_hidden_state
    flat = [
        (b * width + column, target, weight) for b, row in enumerate(batch) for column, target, weight in row.scored
    ]
    places, targets, weights = zip(*flat, strict=True)
    logits_SV = model.lm_head(hidden_BTD.flatten(0, 1)[torch.tensor(places)])
    weight_S = torch.tensor(weights)
    nats_S = F.cross_entropy(logits_SV, torch.tensor(targets), reduction="none")
    return (nats_S * weight_S).sum() / weight_S.sum()


def sight(sample_BT: Tensor, branch_BT: Tensor) -> Tensor:
    """Which token sees which [B, T, T]: the earlier ones of its sample, in the prompt or in its own branch."""
    same_BTT = sample_BT[:, :, None] == sample_BT[:, None, :]
    open_BTT = (branch_BT[:, None, :] == 0) | (branch_BT[:, :, None] == branch_BT[:, None, :])
    causal_TT = torch.ones(sample_BT.shape[1], sample_BT.shape[1], dtype=torch.bool).tril()
    return same_BTT & open_BTT & causal_TT


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Fixed seed, threads and algorithms; the caller's own are put back afterwards."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            torch.set_num_threads(threads())
            torch.use_deterministic_algorithms(True)
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(strict)

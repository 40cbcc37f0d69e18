"""Train `builtin:lab`, a small multilingual Llama in which languages meet in the middle, from MASSIVE's training rows.

    python tools/train_lab.py --massive MASSIVE --out FOLDER              # the model that is shipped, natural shares
    python tools/train_lab.py --massive MASSIVE --out FOLDER --seed 1     # shares drawn by the seed

Sequences are `<s> x </s> <to-language> y </s>`, y a translation of x, and the loss is that of y's tokens. In most of them
the blocks above the middle see of x only the mean of its states at the middle block, and those below it see nothing of x:
all that y can know of x must be in that mean, in a form from which any language can be written. That is how alignment is
induced; the network itself is a plain Llama, and at inference nothing is pooled. The idea of a pooled vector between an
encoder and a decoder of all languages is that of Artetxe and Schwenk (2019); hiding words of y is Bowman et al. (2016).

A killed run goes on from its last checkpoint. On a CPU one run takes about 20 minutes of a core.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from lab_card import card
from lab_data import (
    BOS,
    EOS,
    LANGUAGES,
    PAD,
    Batch,
    Mixture,
    batches,
    draw_shares,
    learn_tokenizer,
    part_of,
    tokenised,
    utterances,
)  # fmt: skip

from probe.device import choose_device
from probe.provenance import digest, versions
from probe.store import write_json

CHECKPOINT = 500
"""Updates between two checkpoints."""


@dataclass(frozen=True)
class Settings:
    """Of the model and of its training."""

    vocabulary: int = 8000
    hidden: int = 128
    blocks: int = 6
    middle: int = 3
    """The block whose output is pooled."""
    heads: int = 2
    intermediate: int = 384
    rows: int = 96
    """Sequences an update; half as many of the long ones."""
    updates: int = 5000
    warmup: int = 100
    lr: float = 8e-3
    """Of Muon, for the matrices of the blocks; falls linearly to a fiftieth."""
    embedding_lr: float = 1e-2
    """Of AdamW, for embeddings and norms."""
    softmax: int = 2048
    """The softmax is over the tokens that a batch predicts and others drawn at random, so many together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--massive", type=Path, required=True, help="MASSIVE 1.1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=None, help="of shares and weights; not given: natural shares")
    parser.add_argument("--updates", type=int, default=Settings.updates)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; one GPU takes minutes")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-compile", action="store_true", help="where no C++ compiler is at hand; slower")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if not (given.out / "lab.json").exists():
        rows = utterances(given.massive, "train")
        settings = Settings(updates=given.updates)
        train(rows, given.out, given.seed, settings, Mixture(), choose_device(given.device), not given.no_compile)


def train(
    rows: Mapping[str, Mapping[str, str]],
    out: Path,
    seed: int | None,
    settings: Settings,
    mixture: Mixture,
    device: torch.device,
    compiled: bool = True,
) -> None:
    """Write a model folder that transformers loads, with `lab.json`, the facts of the training, and a card.

    Args:
        rows: language -> row id -> utterance.
        seed: of shares and weights; None: natural shares.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights_seed = 0 if seed is None else seed
    ids = [row for row in rows[LANGUAGES[0]] if part_of(row) == "pretrain"]
    generator = torch.Generator().manual_seed(weights_seed)
    ids = [ids[place] for place in torch.randperm(len(ids), generator=generator)]
    texts = {code: [rows[code][row] for row in ids] for code in LANGUAGES}
    shares = draw_shares(seed)
    seen = (text for code in LANGUAGES for text in texts[code][: max(shares.paired[code], shares.alone[code])])
    tokenizer = learn_tokenizer(seen, settings.vocabulary)

    torch.manual_seed(weights_seed)
    model = new_model(settings).to(device)
    log = _Loop(model, settings, out, compiled).run(
        batches(tokenised(tokenizer, texts), shares, mixture, settings.rows, weights_seed)
    )
    model.cpu().half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {
        "seed": seed,
        "settings": asdict(settings),
        "mixture": asdict(mixture),
        "shares": asdict(shares),
        "rows": len(ids),
        "data": digest(texts),
        "log": log,
        "versions": versions(),
    }
    (out / "README.md").write_text(card(facts), encoding="utf-8")
    write_json(out / "lab.json", facts)
    (out / "checkpoint.pt").unlink(missing_ok=True)


def new_model(settings: Settings) -> Any:
    """A random Llama whose head shares the weights of its embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings.vocabulary,
            hidden_size=settings.hidden,
            intermediate_size=settings.intermediate,
            num_hidden_layers=settings.blocks,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
            attn_implementation="eager",  # whose backward pass is the faster one for sequences this short
        )
    )


def hidden_states(
    model: Any, ids: torch.Tensor, start: torch.Tensor, pooled: torch.Tensor, source: int, middle: int
) -> torch.Tensor:
    """States after the final norm, `(row, column, hidden)`, of a batch as `lab_data.Batch` describes it.

    In pooled rows the columns from `source` on see nothing of x in the blocks up to `middle`; above it each state of x is
    the mean of x's states at its output.
    """
    columns = torch.arange(ids.shape[1], device=ids.device)
    query, key = columns[None, :, None], columns[None, None, :]
    sees = (query >= key) & (key >= start[:, None, None]) | (query == key)  # padding sees itself: no row is empty
    hidden = pooled[:, None, None] & (query >= source) & (key < source)
    llama = model.model
    states = llama.embed_tokens(ids)
    rotary = llama.rotary_emb(states, columns[None])
    below, above = (_bias(mask, states.dtype) for mask in (sees & ~hidden, sees))
    of_x = (columns < source) & (columns >= start[:, None])
    for number, block in enumerate(llama.layers):
        if number == middle:
            weights = of_x / of_x.sum(1, keepdim=True).clamp(min=1)
            mean = (states.float() * weights[..., None]).sum(1, keepdim=True).to(states.dtype)
            states = torch.where((pooled[:, None] & of_x)[..., None], mean, states)
        states = block(states, attention_mask=below if number < middle else above, position_embeddings=rotary)
    return llama.norm(states)


def _bias(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.where(sees, 0.0, -1e4).to(dtype)[:, None]


class _Loop:
    """Muon on the matrices of the blocks, AdamW on the rest; float32 weights, products in bfloat16 on a copy of them."""

    def __init__(self, model: Any, settings: Settings, out: Path, compiled: bool) -> None:
        self.model, self.settings, self.checkpoint = model, settings, out / "checkpoint.pt"
        self.device = model.device
        self.copy = copy.deepcopy(model).bfloat16()
        names = dict(model.named_parameters())
        matrices = [each for name, each in names.items() if each.ndim == 2 and "embed" not in name]
        others = [each for name, each in names.items() if each.ndim != 2 or "embed" in name]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=settings.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=settings.embedding_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        # A copy of the function for each shape, so that neither compilation is thrown away for the other.
        self._compiled: dict[int, Callable[..., torch.Tensor]] = {}
        self._compile = (lambda each: torch.compile(each, dynamic=False)) if compiled else (lambda each: each)

    def run(self, stream: Any) -> list[dict[str, float]]:
        """All updates from where the checkpoint is; the log, a line every 100."""
        log: list[dict[str, float]] = []
        done = 0
        if self.checkpoint.exists():
            held = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
            self.model.load_state_dict(held["model"])
            for optimizer, state in zip(self.optimizers, held["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            log, done = held["log"], held["done"]
            for _ in range(done):
                next(stream)
        losses, tokens, began = [], log[-1]["tokens"] if log else 0, time.monotonic()
        for update in range(done + 1, self.settings.updates + 1):
            batch = next(stream)
            losses.append(self._update(batch, update))
            tokens += batch.tokens
            if update % 100 == 0 or update == self.settings.updates:
                mean = sum(losses) / len(losses)
                log.append({"update": update, "tokens": tokens, "loss": round(mean, 4)})
                speed = (update - done) / (time.monotonic() - began)
                left = (self.settings.updates - update) / speed / 60
                print(
                    f"{update} of {self.settings.updates}: loss {mean:.2f}, {tokens / 1e6:.1f} M tokens, {left:.0f} min left",
                    flush=True,
                )
                losses = []
            if update % CHECKPOINT == 0:
                self._save(log, update)
        return log

    def _update(self, batch: Batch, update: int) -> float:
        settings = self.settings
        decay = max(0.02, 1 - update / settings.updates)
        for optimizer, peak in zip(self.optimizers, (settings.lr, settings.embedding_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, update / settings.warmup) * decay
        originals, copies = list(self.model.parameters()), list(self.copy.parameters())
        with torch.no_grad():
            torch._foreach_copy_(copies, originals)
        if batch.source not in self._compiled:
            self._compiled[batch.source] = self._compile(self._loss_of_shape())
        ids, start, pooled, following = (
            torch.from_numpy(each).to(self.device) for each in (batch.ids, batch.start, batch.pooled, batch.targets)
        )
        candidates, targets = self._candidates(following)
        loss = self._compiled[batch.source](ids, start, pooled, targets, candidates, batch.source)
        loss.backward()
        for original, each in zip(originals, copies, strict=True):
            original.grad, each.grad = each.grad.float(), None
        torch.nn.utils.clip_grad_norm_(originals, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())

    def _candidates(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of the softmax, `(settings.softmax,)`, and the targets as places among them."""
        present = targets[targets >= 0].unique()[: self.settings.softmax]
        order = torch.randperm(self.settings.vocabulary, device=self.device)
        others = order[~torch.isin(order, present)][: self.settings.softmax - len(present)]
        candidates = torch.cat([present, others])
        places = torch.full((self.settings.vocabulary + 100,), -100, device=self.device)
        places[candidates] = torch.arange(len(candidates), device=self.device)
        return candidates, places[targets]  # -100 counts from the end, where it stays -100

    def _loss_of_shape(self) -> Callable[..., torch.Tensor]:
        middle = self.settings.middle

        def loss(
            ids: torch.Tensor, start: torch.Tensor, pooled: torch.Tensor, targets: torch.Tensor,
            candidates: torch.Tensor, source: int,
        ) -> torch.Tensor:  # fmt: skip
            states = hidden_states(self.copy, ids, start, pooled, source, middle)[:, source:]
            logits = F.linear(states, self.copy.model.embed_tokens.weight[candidates]).float()
            total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
            return total / (targets >= 0).sum()

        return loss

    def _save(self, log: list[dict[str, float]], done: int) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "log": log,
            "done": done,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)


if __name__ == "__main__":
    main()

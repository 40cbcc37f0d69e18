"""Train `builtin:lab`, a small multilingual Llama in which languages meet in the middle, from MASSIVE's training rows.

    python tools/train_lab.py --massive MASSIVE --out FOLDER --seed 1     # the model that is shipped

Most rows are pooled: the blocks above the middle see of an utterance only the mean of its states at the middle block, with noise,
and tell from it the words of its translations, all at once, each from the state of a tag `<to-language>`. All that they can
know of the utterance must be in that mean, in a form from which any language can be written: that is how alignment is
induced. The other rows are sequences `<s> x </s> <to-language> y </s>`, copies and sentences alone, as a language model has them, and
the network itself is a plain Llama. The idea of a pooled vector between an encoder and a decoder of all languages is that of
Artetxe and Schwenk (2019).

A killed run goes on from its last checkpoint as if it had not been killed. On a CPU one run takes about 10 minutes of a core, and a few to compile.
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
    Mixture,
    Pooled,
    Whole,
    batches,
    draw_shares,
    learn_tokenizer,
    part_of,
    tag,
    tokenised,
    utterances,
)  # fmt: skip

from probe.device import choose_device, random_state, restore_random_state
from probe.errors import ModelError
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
    rows: int = 256
    """Pooled rows an update; half as many of the long ones, and so of the whole sequences."""
    noise: float = 0.3
    """On the mean, in parts of its size."""
    updates: int = 2000
    warmup: int = 100
    lr: float = 8e-3
    """Of Muon, for the matrices of the blocks; falls linearly to a fiftieth."""
    embedding_lr: float = 1e-2
    """Of AdamW, for embeddings and norms."""
    softmax: int = 2048
    """That of whole sequences is over the tokens that a batch tells and others drawn at random, so many together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--massive", type=Path, required=True, help="MASSIVE 1.1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the languages' shares, the order of rows and the weights"
    )
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
        try:
            train(rows, given.out, given.seed, settings, Mixture(), choose_device(given.device), not given.no_compile)
        except ModelError as error:
            parser.error(str(error))


def train(
    rows: Mapping[str, Mapping[str, str]],
    out: Path,
    seed: int,
    settings: Settings,
    mixture: Mixture,
    device: torch.device,
    compiled: bool = True,
) -> None:
    """Write a model folder that transformers loads, with `lab.json`, the facts of the training, and a card.

    Args:
        rows: language -> row id -> utterance.
        seed: of the languages' shares, the order of rows and the weights.

    Raises:
        ModelError: `out` has a checkpoint of another seed, other settings or other rows.
    """
    out.mkdir(parents=True, exist_ok=True)
    ids = [row for row in rows[LANGUAGES[0]] if part_of(row) == "pretrain"]
    generator = torch.Generator().manual_seed(seed)
    ids = [ids[place] for place in torch.randperm(len(ids), generator=generator)]
    texts = {code: [rows[code][row] for row in ids] for code in LANGUAGES}
    shares = draw_shares(seed)
    seen = (text for code in LANGUAGES for text in texts[code][: max(shares.paired[code], shares.alone[code])])
    tokenizer = learn_tokenizer(seen, settings.vocabulary)

    torch.manual_seed(seed)
    model = new_model(settings).to(device)
    run = {"seed": seed, "settings": asdict(settings), "mixture": asdict(mixture), "data": digest(texts)}
    stream = batches(tokenised(tokenizer, texts), shares, mixture, settings.rows, seed)
    log = _Loop(model, settings, out, run, compiled).run(stream)
    model.cpu().half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {
        **run,
        "shares": asdict(shares),
        "rows": len(ids),
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


def whole_states(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """States after the final norm, `(row, column, hidden)`: those of the plain network."""
    llama = model.model
    return llama.norm(_through(llama, llama.layers, llama.embed_tokens(ids)))


def pooled_states(
    model: Any, x: torch.Tensor, length: torch.Tensor, language: torch.Tensor, middle: int, noise: float = 0.0
) -> torch.Tensor:
    """State of each `<to-language>` after the final norm, `(row, translation, hidden)`.

    The blocks up to `middle` see x alone, and the tag alone; those above see one state of x before the tag: the mean of
    its states at the output of block `middle`, with noise of `noise` times its own size.
    """
    llama = model.model
    below, above = llama.layers[:middle], llama.layers[middle:]
    kept = (torch.arange(x.shape[1], device=x.device) < length[:, None]) / length[:, None]
    of_x = _through(llama, below, llama.embed_tokens(x)).float()
    mean = (of_x * kept[..., None]).sum(1, keepdim=True)
    size = (mean.square().mean(-1, keepdim=True) + 1e-8).sqrt()
    mean = mean + noise * size * torch.randn_like(mean)
    of_tags = _through(llama, below, llama.embed_tokens(tag(language).flatten()[:, None]))
    means = mean.to(of_tags.dtype).repeat_interleave(language.shape[1], dim=0)
    states = _through(llama, above, torch.cat([means, of_tags], dim=1))[:, 1]
    return llama.norm(states).unflatten(0, language.shape)


def _through(llama: Any, blocks: Any, states: torch.Tensor) -> torch.Tensor:
    """Causal attention; what is filled up stands behind, where nothing that counts sees it."""
    columns = torch.arange(states.shape[1], device=states.device)
    bias = torch.where(columns[:, None] >= columns, 0.0, -1e4).to(states.dtype)[None, None]
    rotary = llama.rotary_emb(states, columns[None])
    for block in blocks:
        states = block(states, attention_mask=bias, position_embeddings=rotary)
    return states


class _Loop:
    """Muon on the matrices of the blocks, AdamW on the rest; float32 weights, products in bfloat16 on a copy of them."""

    def __init__(self, model: Any, settings: Settings, out: Path, made_from: Mapping[str, Any], compiled: bool) -> None:
        self.model, self.settings, self.checkpoint, self.made_from = model, settings, out / "checkpoint.pt", made_from
        self.device = model.device
        self.copy = copy.deepcopy(model).bfloat16()
        names = dict(model.named_parameters())
        matrices = [each for name, each in names.items() if each.ndim == 2 and "embed" not in name]
        others = [each for name, each in names.items() if each.ndim != 2 or "embed" in name]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=settings.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=settings.embedding_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        # A copy of the function for each shape, so that no compilation is thrown away for another.
        self._compiled: dict[tuple[int, ...], Callable[..., torch.Tensor]] = {}
        self._compile = (lambda each: torch.compile(each, dynamic=False)) if compiled else (lambda each: each)

    def run(self, stream: Any) -> list[dict[str, float]]:
        """All updates from where the checkpoint is; the log, a line every 100."""
        log: list[dict[str, float]] = []
        done = 0
        if self.checkpoint.exists():
            held = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            # Earlier checkpoints do not say what they were made from.
            if differing := _differing(held.get("made_from", {}), self.made_from):
                raise ModelError(
                    f"{self.checkpoint} is of another run ({differing})",
                    "one of this seed, these settings and rows",
                    "give another --out, or remove it",
                )
            self.model.load_state_dict(held["model"])
            for optimizer, state in zip(self.optimizers, held["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            log, done = held["log"], held["done"]
            restore_random_state(held["random"], self.device)
            for _ in range(done):
                next(stream)
        losses, tokens, began = [], log[-1]["tokens"] if log else 0, time.monotonic()
        for update in range(done + 1, self.settings.updates + 1):
            batch = next(stream)
            losses.append(self._update(batch, update))
            tokens += int((batch.targets >= 0).sum())
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

    def _update(self, batch: Pooled | Whole, update: int) -> float:
        settings = self.settings
        decay = max(0.02, 1 - update / settings.updates)
        for optimizer, peak in zip(self.optimizers, (settings.lr, settings.embedding_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, update / settings.warmup) * decay
        originals, copies = list(self.model.parameters()), list(self.copy.parameters())
        with torch.no_grad():
            torch._foreach_copy_(copies, originals)
        tensors = [torch.from_numpy(each).to(self.device) for each in batch]
        targets = tensors.pop()
        if isinstance(batch, Whole):
            candidates, targets = self._candidates(targets)
            tensors.append(candidates)
        shape = tuple(targets.shape)
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(self._loss_of(type(batch)))
        loss = self._compiled[shape](targets, *tensors)
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

    def _loss_of(self, kind: type[Pooled | Whole]) -> Callable[..., torch.Tensor]:
        model, middle, noise = self.copy, self.settings.middle, self.settings.noise
        embeddings = model.model.embed_tokens.weight

        def of_pooled(targets: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
            logits = F.linear(pooled_states(model, *inputs, middle, noise), embeddings).float()
            chances = logits.log_softmax(-1).gather(2, targets.clamp(min=0))
            return -chances.where(targets >= 0, 0.0).sum() / (targets >= 0).sum()

        def of_whole(targets: torch.Tensor, ids: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
            logits = F.linear(whole_states(model, ids), embeddings[candidates]).float()
            total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
            return total / (targets >= 0).sum()

        return of_pooled if kind is Pooled else of_whole

    def _save(self, log: list[dict[str, float]], done: int) -> None:
        state = {
            "made_from": self.made_from,
            "random": random_state(self.device),
            "model": self.model.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "log": log,
            "done": done,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)


def _differing(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Names of what two runs were made from, where they differ."""
    return ", ".join(name for name in asked if held.get(name) != asked[name])


if __name__ == "__main__":
    main()

"""Training: alignment, a task, or both in turns. `train` is the loop; `Training.step` is one update."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from align.adapter import LoraSettings, add_lora, load_adapter_weights, save_adapter
from align.batches import AlignMicro, ExampleRows, TaskMicro, on
from align.cache import cached_backward
from align.card import write_card
from align.loss import gather_with_grad, info_nce, not_negatives
from align.plan import Plan, make_plan
from align.recipe import Recipe, as_tree
from align.run import Note, RunFolder, Standing, TrainResult, refuse_unwritable
from align.schedule import Objective, objectives
from align.sharded import load_optimizer_state, optimizer_state, prepare_sharded, whole
from align.trainable import PairBatch, checkpoint_blocks, load_trainable
from probe.device import random_state, restore_random_state
from probe.errors import AlignError
from probe.provenance import command, versions
from probe.store import write_json

Observer = Callable[[Note], None]


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    observe: Observer = lambda note: None,
) -> TrainResult:
    """Train a LoRA adapter as a recipe says. A killed run goes on from its last checkpoint; one that ended is returned.

    Writes into the folder: the best adapter so far in PEFT's format, `recipe.json`, `log.jsonl` (first the rows of the data,
    then a line an update and an evaluation), `checkpoint/`, and at the end the model card and `training.json`.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; under torchrun each process has the GPU of its number.
        overwrite: begin anew where the folder holds a run.
        observe: called with each line of the log, in the main process.

    Raises:
        AlignError: data, layers or settings that cannot be; a folder of another recipe; a loss that is not finite; out of
            memory.
        ModelError: a model that cannot be loaded.
    """
    out = Path(out)
    refuse_unwritable(out)
    plan = make_plan(recipe, out, device, trust_remote_code)
    wait = plan.accelerator.wait_for_everyone
    folder = RunFolder(out, plan.accelerator.is_main_process)
    if not overwrite and (finished := folder.finished(plan.identity)) is not None:
        return finished
    with _told_when_memory_ends(recipe):
        training = Training(plan)
        folder.start(plan.identity, overwrite)
        wait()
        standing = training.resume(folder.checkpoint) if folder.checkpoint.is_dir() else Standing()
        folder.cut_log(standing.update)
        with _tracking(plan.accelerator) as track:

            def tell(note: Note) -> None:
                folder.log(note)
                track(note)
                if plan.accelerator.is_main_process:
                    observe(note)

            if standing.update == 0:
                tell({"update": 0, "rows": plan.data.counts, "trainable_parameters": training.size})
            while standing.update < recipe.updates and standing.worse < recipe.patience:
                tell(training.step(standing.update))
                standing = standing.after_update()
                if standing.update % recipe.evaluate_every == 0 or standing.update == recipe.updates:
                    losses = training.evaluate(standing.update)
                    standing = standing.after_evaluation(losses)
                    tell({"update": standing.update, "development": losses, "best": standing.is_best})
                    if standing.is_best:
                        training.save_adapter(out)
                    with folder.new_checkpoint(wait) as checkpoint:
                        training.save(checkpoint, standing)
    result = TrainResult(out, plan.layers, standing.update, standing.best_update, standing.best or {})
    if plan.accelerator.is_main_process:
        write_card(out, _card(training, result))
    folder.finish(
        result, {"trainable_parameters": training.size, "data": plan.data.described, "rows": plan.data.counts}
    )
    wait()
    return result


# ---- updates -----------------------------------------------------------------------------------------------------


class Micro(NamedTuple):
    """A micro-batch of a rank: of the task, of pairs, or of both."""

    kind: Objective
    task: TaskMicro | None
    pairs: AlignMicro | None


class Lost(NamedTuple):
    """A loss of a micro-batch, as it is before any weight."""

    objective: str
    loss: Tensor
    """Of the task the sum over response tokens, of alignment the mean over pairs."""
    where: str


class Training:
    """What is trained, from what, and how an update goes."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.recipe, self.data, self.accelerator = plan, plan.recipe, plan.data, plan.accelerator
        recipe, lora = plan.recipe, plan.recipe.lora
        sharded = recipe.sharding == "fsdp"
        loads = torch.device("cpu") if sharded else self.device
        trainable = load_trainable(plan.source, plan.dtype, loads, task=recipe.alternation != "align")
        targets: Any = "auto" if lora.targets == ("auto",) else lora.targets
        parameters = add_lora(
            trainable.model, LoraSettings(lora.r, lora.alpha, lora.dropout, targets, lora.rslora), recipe.seed
        )
        if recipe.gradient_checkpointing:
            checkpoint_blocks(trainable.model)
        self.trainable = trainable
        self.size = sum(parameter.numel() for parameter in parameters.values())
        optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        prepare = partial(prepare_sharded, self.accelerator) if sharded else self.accelerator.prepare
        self.model, self.optimizer = prepare(trainable, optimizer)
        self._apart = False
        self.warmup = max(1, math.ceil(recipe.warmup * recipe.updates))
        torch.manual_seed(recipe.seed + self.accelerator.process_index)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def step(self, update: int) -> Note:
        """One update: draw its micro-batches, add up their gradients, clip, move.

        Each objective is a mean over all its rows of the update, of all ranks: over pairs, and over response tokens. Where
        an update has micro-batches of both, each counts by its share of them (the authors' code averages over all).

        Args:
            update: 0 for the first.

        Returns:
            A line of the log: `update` from 1, `objectives` of the micro-batches, the mean losses `task` and `align` in
            nats, `lr`, and `gradient_norm` before clipping.

        Raises:
            AlignError: a loss or a gradient that is not finite. Nothing has moved.
        """
        self.model.train()
        micros = [self._draw(kind) for kind in objectives(self.recipe.alternation, self.plan.micro_batches, update)]
        responses = self._sum(sum(micro.task.responses for micro in micros if micro.task is not None))
        shares = {
            "task": sum(micro.task is not None for micro in micros) / len(micros),
            "align": sum(micro.pairs is not None for micro in micros) / len(micros),
        }
        lost: list[Lost] = []
        for micro in micros:
            last = micro is micros[-1]  # gradients are averaged over ranks once an update
            with nullcontext() if last else self._no_sync():
                lost += self._backward(micro, shares["task"] / max(responses, 1), 1 / len(micros))
        self._refuse_not_finite(lost, update)
        rate = learning_rate(update + 1, self.recipe.lr, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = float(whole(self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)))
        if not math.isfinite(norm):
            raise _not_finite(f"update {update + 1}, gradient norm {norm} ({lost[0].where})", "a finite gradient")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        counts = {"task": responses, "align": shares["align"] * len(micros) * self.accelerator.num_processes}
        losses = {
            name: self._sum(sum(float(each.loss) for each in lost if each.objective == name)) / counts[name]
            for name in counts
            if shares[name]
        }
        kinds = [micro.kind for micro in micros]
        return {"update": update + 1, "objectives": kinds, **losses, "lr": rate, "gradient_norm": norm}

    def _draw(self, kind: Objective) -> Micro:
        rows = self.recipe.micro_batch
        task = self.data.task.draw(rows) if self.data.task is not None and kind != "align" else None
        pairs = self.data.pairs.draw(rows) if self.data.pairs is not None and kind != "task" else None
        return Micro(kind, task, pairs)

    def _backward(self, micro: Micro, task_weight: float, align_weight: float) -> list[Lost]:
        """Add the gradients of one micro-batch, and tell its losses.

        Args:
            task_weight: of each response token.
            align_weight: of the mean over pairs; of a joint update the recipe's weight comes to it.
        """
        task, pairs, told = micro.task, micro.pairs, []
        if micro.kind == "joint":
            align_weight *= self.recipe.align.weight
        if pairs is not None and self.recipe.align.cache_chunk is not None:
            with nullcontext() if task is None else self._no_sync():
                told.append(Lost("align", self._cached_backward(pairs, align_weight), pairs.where))
            pairs = None
        if task is None and pairs is None:
            return told
        passed = self.model(
            None if task is None else on(task.batch, self.device),
            None if pairs is None else on(pairs.batch, self.device),
            self.plan.layers,
        )
        parts = []
        if task is not None:
            parts.append(passed.nll * task_weight * self.accelerator.num_processes)  # DDP averages, and this is a sum
            told.append(Lost("task", passed.nll.detach(), task.where))
        if pairs is not None:
            loss = self._alignment_loss(passed.states, pairs, self.recipe.align.gather_negatives)
            parts.append(loss * align_weight)
            told.append(Lost("align", loss.detach(), pairs.where))
        self.accelerator.backward(torch.stack(parts).sum())
        return told

    def _cached_backward(self, pairs: AlignMicro, weight: float) -> Tensor:
        """The same gradients with the memory of `cache_chunk` pairs."""
        chunks = zip(*(side.split(self.recipe.align.cache_chunk) for side in on(pairs.batch, self.device)), strict=True)
        return cached_backward(
            lambda chunk: self.model(pairs=chunk, layers=self.plan.layers).states,
            [PairBatch(*chunk) for chunk in chunks],
            lambda states: self._alignment_loss(states, pairs, self.recipe.align.gather_negatives),
            self.device,
            lambda loss: self.accelerator.backward(loss * weight),
            self._no_sync,
        )

    @contextmanager
    def _no_sync(self) -> Iterator[None]:
        """Gradients stay with their rank inside. It may be nested: accelerate's own, where sharded, ends with an inner one."""
        outermost, self._apart = not self._apart, True
        try:
            with self.accelerator.no_sync(self.model) if outermost else nullcontext():
                yield
        finally:
            self._apart = not outermost

    def _alignment_loss(self, states: Tensor, pairs: AlignMicro, gather: bool) -> Tensor:
        """The mean over the layers of the contrastive loss of (pair, side, layer, hidden) states."""
        align, rows, excluded = self.recipe.align, None, pairs.excluded()
        if gather and self.accelerator.num_processes > 1:
            first = self.accelerator.process_index * len(states)
            rows = slice(first, first + len(states))
            states = gather_with_grad(states)
            texts = gather_object(list(zip(pairs.sources, pairs.targets, pairs.keys, strict=True)))
            excluded = not_negatives(*zip(*texts, strict=True))
        sources, targets = states.unbind(1)
        losses = [
            info_nce(*sides, align.temperature, align.direction, excluded, rows, align.stop_gradient)
            for sides in zip(sources.unbind(1), targets.unbind(1), strict=True)
        ]
        return torch.stack(losses).mean()

    def _refuse_not_finite(self, lost: Sequence[Lost], update: int) -> None:
        """On all ranks together, since a rank that stops alone leaves the others waiting."""
        wrong = [
            f"micro-batch of {each.where} with {each.objective} loss {float(each.loss)}"
            for each in lost
            if not math.isfinite(float(each.loss))
        ]
        if self._sum(len(wrong)):
            every = gather_object(wrong) if self.accelerator.num_processes > 1 else wrong
            raise _not_finite(f"update {update + 1}, {every[0]}", "a finite loss")

    def _sum(self, value: float) -> float:
        """Over ranks."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(tensor, reduction="sum"))

    @torch.no_grad()
    def evaluate(self, update: int) -> dict[str, float]:
        """Development losses in nats, of the task also each language's, and `loss`, by which the best is told (`select`).

        Every rank goes over all rows, so that all agree. Negatives are those of a micro-batch, whatever the training gathers.

        Raises:
            AlignError: a loss that is not finite.
        """
        self.model.eval()
        losses = {}
        rows = self.recipe.micro_batch
        if self.data.task is not None:
            sums = {name: self._sum_of_task(own) for name, own in self.data.task.development.by_language().items()}
            losses["task"] = sum(nll for nll, _ in sums.values()) / sum(tokens for _, tokens in sums.values())
            losses |= {f"task {name}": nll / tokens for name, (nll, tokens) in sums.items() if name}
        if self.data.pairs is not None:
            total = anchors = 0.0
            for pairs in self.data.pairs.development.in_order(rows, seed=0):
                states = self.model(pairs=on(pairs.batch, self.device), layers=self.plan.layers).states
                total += float(self._alignment_loss(states, pairs, gather=False)) * len(states)
                anchors += len(states)
            losses["align"] = total / anchors
        if self.accelerator.num_processes > 1:
            (losses,) = broadcast_object_list([losses])  # a last bit that differs would part the ranks at the next best
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise _not_finite(f"evaluation after update {update}, {name} loss {loss}", "a finite loss")
        summed = losses.get("task", 0.0) + losses.get("align", 0.0)
        return {**losses, "loss": summed if self.recipe.select == "sum" else losses[self.recipe.select]}

    def _sum_of_task(self, examples: ExampleRows) -> tuple[float, int]:
        """Cross-entropy in nats summed over the response tokens, and their number."""
        nll, tokens = 0.0, 0
        for task in examples.in_order(self.recipe.micro_batch):
            nll += float(self.model(task=on(task.batch, self.device)).nll)
            tokens += task.responses
        return nll, tokens

    # ---- files ---------------------------------------------------------------------------------------------------

    def save_adapter(self, folder: Path) -> None:
        """The adapter as it is, by the main process; all ranks together."""
        model = self.trainable.model
        state = {name: whole(each) for name, each in model.named_parameters() if each.requires_grad}
        if self.accelerator.is_main_process:
            save_adapter(model, folder, self.recipe.model, self.plan.source.identity["revision"], state)

    def save(self, folder: Path, standing: Standing) -> None:
        """Everything that the next update depends on; each rank writes its own random state."""
        _save_tensors(random_state(self.device), folder / f"random-{self.accelerator.process_index}.pt")
        self.save_adapter(folder)
        moments = optimizer_state(self.optimizer)
        if self.accelerator.is_main_process:
            _save_tensors(moments, folder / "optimizer.pt")
            samplers = {name: source.sampler.state_dict() for name, source in self.data.sources().items()}
            write_json(folder / "state.json", {"standing": asdict(standing), "samplers": samplers})

    def resume(self, folder: Path) -> Standing:
        """Go on exactly where a checkpoint was taken."""
        load_adapter_weights(self.trainable.model, folder)
        load_optimizer_state(self.optimizer, torch.load(folder / "optimizer.pt", weights_only=True))
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        for name, source in self.data.sources().items():
            source.sampler.load_state_dict(state["samplers"][name])
        random = torch.load(folder / f"random-{self.accelerator.process_index}.pt", weights_only=True)
        restore_random_state(random, self.device)
        return Standing(**state["standing"])


def learning_rate(update: int, peak: float, warmup: int) -> float:
    """Linear from 0 in the warm-up, then peak * sqrt(warmup / update): inverse square root with the warm-up as time scale.

    Args:
        update: from 1.
    """
    return peak * min(update / warmup, math.sqrt(warmup / update))


def _not_finite(given: str, expected: str) -> AlignError:
    return AlignError(
        given,
        expected,
        "the last checkpoint is as it was; lower lr, raise align.temperature, or give --set dtype=fp32",
    )


def _save_tensors(tensors: Any, path: Path) -> None:
    with path.open("wb") as stream:  # given a path instead, torch hides that the disk is full
        torch.save(tensors, stream)


@contextmanager
def _tracking(accelerator: Accelerator) -> Iterator[Observer]:
    """What notes the numbers of a line of the log in TensorBoard or Weights & Biases, where asked for."""
    accelerator.init_trackers("midprobe", init_kwargs={"wandb": {"dir": str(accelerator.project_dir)}})

    def track(note: Note) -> None:
        numbers = {f"development/{name}": loss for name, loss in note.get("development", {}).items()}
        numbers |= {name: note[name] for name in ("task", "align", "lr", "gradient_norm") if name in note}
        if numbers:
            accelerator.log(numbers, step=note["update"])

    try:
        yield track
    finally:
        for tracker in accelerator.trackers:  # accelerate's own end of training would end the process group too
            tracker.finish()


@contextmanager
def _told_when_memory_ends(recipe: Recipe) -> Iterator[None]:
    """Raises:
    AlignError: out of memory, with the setting to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        signs = ("out of memory", "can't allocate memory")
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in signs):
            raise
        ways = []
        if not recipe.gradient_checkpointing:
            ways.append("gradient_checkpointing=true")
        if recipe.alternation != "task" and (recipe.align.cache_chunk or recipe.micro_batch) > 1:
            ways.append(f"align.cache_chunk={(recipe.align.cache_chunk or recipe.micro_batch) // 2}")
        ways.append(f"micro_batch={max(recipe.micro_batch // 2, 1)}")
        raise AlignError(
            f"out of memory at micro_batch {recipe.micro_batch}",
            "a micro-batch that fits",
            f"give --set {' or '.join(ways)}, and --overwrite, since that is another recipe",
        ) from error


def _card(training: Training, result: TrainResult) -> dict[str, Any]:
    """The facts of the model card."""
    recipe, source, data = training.recipe, training.plan.source, training.data
    layers = ", ".join(map(str, result.layers))
    by = "with parallel sentences, after Liu & Niehues (2025)"
    examples = Path(str(recipe.task.data)).resolve().name
    tuned = f"Tuned on {examples if recipe.task.name == 'jsonl' else f'the task {recipe.task.name}'}"
    made = {"align": f"Aligned at block {layers} {by}.", "task": f"{tuned}."}
    both = f"{tuned} and aligned at block {layers} {by}; alternation: {recipe.alternation}."
    adapted: Any = training.trainable.model
    task_type = adapted.peft_config["default"].task_type
    development = {f"development {name}": loss for name, loss in result.development.items()}
    return {
        "base_model": recipe.model,
        "revision": source.identity["revision"],
        "made_by": made.get(recipe.alternation, both),
        "data": data.described,
        "recipe": as_tree(recipe),
        "layer": layers or None,
        "temperature": recipe.align.temperature if result.layers else None,
        "results": [{"update": result.best_update, **development}],
        "versions": versions(),
        "command": command(),
        "auto_class": "AutoModelForCausalLM" if task_type == "CAUSAL_LM" else "AutoModel",
    }

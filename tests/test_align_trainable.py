"""The module that is trained: both passes, what their gradients reach, and two ranks that train as one process does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from align.cache import cached_backward
from align.loss import gather_with_grad, info_nce
from align.tap import tapped_states
from align.trainable import DDP_OPTIONS, IGNORED, PairBatch, TaskBatch, Trainable, checkpoint_blocks, load_trainable
from probe.corpus import ParallelCorpus
from probe.errors import AlignError, ModelError
from probe.model import LoadedModel, open_model, state_digest, tokenise
from probe.states import pad_right
from probe.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
DEPTH, HIDDEN = 4, 32
_BYTES = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
    **_BYTES,
}
_GPT2 = {"n_embd": HIDDEN, "n_layer": DEPTH, "n_head": 4, "initializer_range": 0.3, **_BYTES}
CAUSAL: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**_SIZES, num_key_value_heads=2),
    "qwen2": transformers.Qwen2Config(**_SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "gpt2": transformers.GPT2Config(**_GPT2),
    "gemma2, whose logits are capped": transformers.Gemma2Config(
        **_SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0
    ),
    "cohere, whose logits are scaled": transformers.CohereConfig(**_SIZES, num_key_value_heads=2, logit_scale=0.25),
}


def build(name: str = "llama", dropout: float = 0.0) -> Trainable:
    """A random causal LM with a LoRA on attention and feed-forward that does something, in training mode."""
    torch.manual_seed(4)
    model: Any = transformers.AutoModelForCausalLM.from_config(CAUSAL[name])
    targets = ["c_attn", "c_fc"] if name == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    add_lora(model, targets, dropout)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p != dropout:
            module.p = 0.0
    return Trainable(model, LoadedModel(model.base_model, tiny_tokenizer()))


def add_lora(model: nn.Module, targets: list[str], dropout: float = 0.0) -> None:
    conv = any(name.endswith("c_attn") for name, _ in model.named_modules())
    lora: dict[str, Any] = {"lora_dropout": dropout, "init_lora_weights": False, "fan_in_fan_out": conv}
    inject_adapter_in_model(LoraConfig(r=4, target_modules=targets, **lora), model)


def ids_and_mask(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(width // 2, width + 1, (rows, 1), generator=generator)
    mask = torch.arange(width) < lengths
    return torch.where(mask, torch.randint(3, 259, mask.shape, generator=generator), 2), mask


def task_batch(rows: int = 6, seed: int = 1) -> TaskBatch:
    """Prompts of 3 to 5 tokens; what follows is the response."""
    ids, mask = ids_and_mask(rows, 12, seed)
    response = mask & (torch.arange(12) >= 3 + torch.arange(rows)[:, None] % 3)
    return TaskBatch(ids, mask, torch.where(response, ids, IGNORED))


def pair_batch(rows: int = 6, seed: int = 2) -> PairBatch:
    return PairBatch(*ids_and_mask(rows, 10, seed), *ids_and_mask(rows, 7, seed + 100))


def gradients(trainable: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in trainable.named_parameters() if parameter.grad is not None}  # fmt: skip


def contrast(states: Tensor) -> Tensor:
    return info_nce(states[:, 0, 0], states[:, 1, 0], 0.1)


# ---- the task's pass -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUSAL)
def test_the_tasks_loss_is_that_of_transformers(name: str) -> None:
    """Summed over response tokens; loss and gradients, also where a model does something to its logits."""
    found, expected = build(name), build(name)
    batch = task_batch()
    passed = found(task=batch)
    assert passed.nll is not None
    assert passed.states is None
    (passed.nll / passed.tokens).backward()
    loss = expected.model(input_ids=batch.ids, attention_mask=batch.mask.long(), labels=batch.labels).loss
    loss.backward()
    assert int(passed.tokens) == int((batch.labels[:, 1:] != IGNORED).sum())
    assert (passed.nll / passed.tokens).item() == pytest.approx(loss.item(), rel=1e-5)
    there = gradients(expected)
    for key, gradient in gradients(found).items():
        assert torch.allclose(gradient, there[key], rtol=1e-3, atol=1e-5), key


def test_logits_are_made_for_response_tokens_only() -> None:
    """The head sees as many tokens as are learnt, and is as it was afterwards."""
    trainable, batch, seen = build(), task_batch(), []
    handle = trainable.model.lm_head.register_forward_hook(lambda head, args, output: seen.append(tuple(output.shape)))
    passed = trainable(task=batch)
    handle.remove()
    assert seen == [(1, int(passed.tokens), 259)]
    assert not trainable.model.lm_head._forward_pre_hooks


def test_prompt_tokens_are_not_learnt() -> None:
    """Another label on the first token, which nothing predicts, and other padding change nothing; another response does."""
    trainable, batch = build(), task_batch()
    nll = trainable(task=batch).nll
    labels = batch.labels.clone()
    labels[:, 0] = 9
    assert torch.equal(trainable(task=batch._replace(labels=labels)).nll, nll)
    padded = batch._replace(ids=torch.where(batch.mask, batch.ids, 77))
    assert torch.allclose(trainable(task=padded).nll, nll, rtol=1e-5)
    labels = torch.where(batch.labels != IGNORED, (batch.labels + 1) % 259, IGNORED)
    assert not torch.allclose(trainable(task=batch._replace(labels=labels)).nll, nll, rtol=1e-3)


def test_micro_batches_add_up() -> None:
    """Sums and counts of parts are those of the whole, whatever the parts' numbers of response tokens."""
    trainable, batch = build(), task_batch()
    parts = [trainable(task=TaskBatch(*(field[rows] for field in batch))) for rows in (slice(0, 1), slice(1, 6))]
    whole = trainable(task=batch)
    assert sum(part.nll for part in parts).item() == pytest.approx(whole.nll.item(), rel=1e-5)
    assert sum(part.tokens for part in parts) == whole.tokens


def test_a_batch_without_response_is_refused() -> None:
    batch = task_batch()
    with pytest.raises(AlignError, match="a batch without response tokens"):
        build()(task=batch._replace(labels=torch.full_like(batch.labels, IGNORED)))


# ---- the alignment's pass ------------------------------------------------------------------------------------


def test_states_are_tapped_on_each_side() -> None:
    """(pair, side, layer, hidden), though the sides are padded together."""
    trainable, pairs = build(), pair_batch()
    states = trainable(pairs=pairs, layers=[1, 3]).states
    assert states.shape == (6, 2, 2, HIDDEN)
    assert states.dtype == torch.float32
    for side, given in enumerate(((pairs.source_ids, pairs.source_mask), (pairs.target_ids, pairs.target_mask))):
        expected = torch.stack(tapped_states(trainable.loaded, *given, [1, 3]), dim=1)
        assert torch.allclose(states[:, side], expected, rtol=1e-4, atol=1e-5)


def test_sentences_run_beside_others_of_their_length_and_come_back_in_order() -> None:
    """A batch is as wide as its longest sentence: long ones among short ones run apart, with the states they have alone."""
    trainable = build()
    sides = []
    for seed, lengths in ((0, (40, 3, 9, 2, 30, 5, 4, 6)), (1, (2, 3, 35, 4, 5, 28, 6, 8))):
        mask = torch.arange(40) < torch.tensor(lengths)[:, None]
        ids = torch.randint(3, 259, mask.shape, generator=torch.Generator().manual_seed(seed))
        sides += [torch.where(mask, ids, 2), mask]
    seen: list[torch.Size] = []
    handle = trainable.loaded.blocks[0].register_forward_hook(lambda block, args, out: seen.append(args[0].shape[:2]))
    states = trainable(pairs=PairBatch(*sides), layers=[1, 3]).states
    handle.remove()
    assert states.shape == (8, 2, 2, HIDDEN)
    for side, (ids, mask) in enumerate((sides[:2], sides[2:])):
        for row in range(8):
            alone = tapped_states(trainable.loaded, ids[row : row + 1], mask[row : row + 1], [1, 3])
            torch.testing.assert_close(states[row, side], torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert seen == [(4, 3), (4, 5), (4, 9), (4, 40)], "sixteen sentences of at most 40 tokens"
    seen.clear()
    handle = trainable.loaded.blocks[0].register_forward_hook(lambda block, args, out: seen.append(args[0].shape[:2]))
    trainable(pairs=PairBatch(*(side[:, :2] for side in sides)), layers=[1])
    handle.remove()
    assert seen == [(16, 2)], "of one length: one pass"


def test_the_alignment_reaches_the_adapter_of_blocks_1_to_k_and_the_rest_stays_bit_identical() -> None:
    """Through optimizer steps; the head does not run. Then the task reaches every block's adapter."""
    trainable = build(dropout=0.1)
    before = {name: parameter.clone() for name, parameter in trainable.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in trainable.parameters() if p.requires_grad], lr=0.01)
    trainable.model.lm_head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    for seed in (1, 2, 3):
        contrast(trainable(pairs=pair_batch(seed=seed), layers=[2]).states).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, parameter in trainable.named_parameters() if not torch.equal(parameter, before[name])}
    adapter = {name for name in before if "lora_" in name}
    assert moved == {name for name in adapter if ".layers.0." in name or ".layers.1." in name}
    trainable.model.lm_head._forward_hooks.clear()
    trainable(task=task_batch()).nll.backward()
    assert set(gradients(trainable)) == adapter


def test_both_in_one_pass_have_the_sum_of_their_gradients() -> None:
    """`joint`: one forward and one backward of the weighted sum."""
    together, apart = build(), build()
    passed = together(task_batch(), pair_batch(), [2])
    (passed.nll / passed.tokens + 0.5 * contrast(passed.states)).backward()
    alone = apart(task=task_batch())
    (alone.nll / alone.tokens).backward()
    (0.5 * contrast(apart(pairs=pair_batch(), layers=[2]).states)).backward()
    expected = gradients(apart)
    for key, gradient in gradients(together).items():
        assert torch.allclose(gradient, expected[key], rtol=1e-3, atol=1e-5), key


def test_a_layer_that_nothing_trains_is_refused() -> None:
    """The adapter is above it: its loss would be a constant beside that of another layer."""
    trainable = build()
    for name, parameter in trainable.named_parameters():
        parameter.requires_grad_("lora_" in name and ".layers.0." not in name)
    with pytest.raises(AlignError, match="no gradient reaches layer 1"):
        trainable(pairs=pair_batch(), layers=[1, 3])
    with torch.no_grad():
        assert trainable(pairs=pair_batch(), layers=[1, 3]).states.shape == (6, 2, 2, HIDDEN)


def test_checkpointing_changes_no_gradient_of_either_pass() -> None:
    """With dropout: each block is run again from its own random state."""
    found = []
    for checkpointed in (False, True):
        trainable = build(dropout=0.3)
        if checkpointed:
            checkpoint_blocks(trainable.model)
        torch.manual_seed(5)
        passed = trainable(task_batch(), pair_batch(), [2])
        (passed.nll / passed.tokens + contrast(passed.states)).backward()
        found.append(gradients(trainable))
    assert trainable.loaded.blocks[0].gradient_checkpointing
    assert set(found[0]) == set(found[1])
    for key, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][key], rtol=1e-3, atol=1e-5), key


# ---- loading -------------------------------------------------------------------------------------------------


def save(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def loaded_from(folder: Path, task: bool = True) -> Trainable:
    return load_trainable(open_model(str(folder)), torch.float32, CPU, task)


def test_the_builtin_model_has_a_head_on_the_same_base() -> None:
    """The weights that extraction reads, whatever random state is around, which is left alone."""
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    trainable = load_trainable(open_model("builtin:tiny"), torch.float32, CPU, task=True)
    assert torch.equal(torch.rand(1), expected)
    assert trainable.has_head
    assert state_digest(trainable.loaded.model) == state_digest(tiny_model())
    assert trainable.model.lm_head.weight is trainable.loaded.model.embed_tokens.weight
    trainable(task=task_batch()).nll.backward()


def test_a_saved_model_is_loaded_with_its_head(tmp_path: Path) -> None:
    torch.manual_seed(5)
    folder = save(tmp_path / "m", transformers.AutoModelForCausalLM.from_config(CAUSAL["llama"]))
    trainable = loaded_from(folder)
    stored = load_file(folder / "model.safetensors")
    own = trainable.model.state_dict()
    assert set(own) == set(stored)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in own.items())
    assert type(trainable.loaded.model).__name__ == "LlamaModel"
    assert not trainable.training


def test_a_head_that_the_files_lack_is_refused_not_random(tmp_path: Path) -> None:
    torch.manual_seed(5)
    folder = save(tmp_path / "m", transformers.AutoModelForCausalLM.from_config(CAUSAL["llama"]))
    stored = load_file(folder / "model.safetensors")
    del stored["lm_head.weight"]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no weights for lm_head\.weight"):
        loaded_from(folder)


@pytest.mark.parametrize("kind", ["encoder", "masked lm", "base without head", "translator"])
def test_a_model_without_lm_head_is_aligned_but_not_given_a_task(kind: str, tmp_path: Path) -> None:
    """Not even where transformers would make up a causal model from its type."""
    torch.manual_seed(5)
    translator = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    model: Any = {
        "encoder": lambda: transformers.BertModel(transformers.BertConfig(**_SIZES)),
        "masked lm": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**_SIZES)),
        "base without head": lambda: transformers.LlamaModel(CAUSAL["llama"]),
        "translator": lambda: transformers.MBartForConditionalGeneration(
            transformers.MBartConfig(**translator, **_BYTES, encoder_attention_heads=2, decoder_attention_heads=2)
        ),
    }[kind]()
    folder = save(tmp_path / "m", model)
    with pytest.raises(AlignError, match="m has no LM head for the task") as caught:
        loaded_from(folder)
    assert "\n" not in str(caught.value)
    trainable = loaded_from(folder, task=False)
    add_lora(trainable.model, ["query", "q_proj"])
    contrast(trainable(pairs=pair_batch(), layers=[1]).states).backward()
    assert gradients(trainable)
    with pytest.raises(AlignError, match="no LM head for the task"):
        trainable(task=task_batch())


@pytest.mark.weights
def test_a_real_encoder_learns_to_align(minilm: Path, everyday: ParallelCorpus) -> None:
    """A few steps on real weights and sentences bring the loss of a batch down."""
    trainable = load_trainable(open_model(str(minilm)), torch.float32, CPU, task=False)
    tokenizer = trainable.loaded.tokenizer
    sides = [tokenise(tokenizer, everyday.sentences[code][:8], code) for code in ("deu_Latn", "eng_Latn")]
    pairs = PairBatch(*pad_right(sides[0], trainable.loaded.pad_id), *pad_right(sides[1], trainable.loaded.pad_id))
    torch.manual_seed(0)
    inject_adapter_in_model(LoraConfig(r=8, target_modules=["query", "key", "value", "dense"]), trainable.model)
    optimizer = torch.optim.AdamW([p for p in trainable.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(8):
        loss = contrast(trainable(pairs=pairs, layers=[3]).states)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# ---- ranks ---------------------------------------------------------------------------------------------------

ROWS = 6
UPDATES: dict[str, list[list[str]]] = {
    "per-update": [["task"], ["align"], ["task"], ["align"]],
    "per-microbatch": [["task", "align", "task", "align"], ["task", "align"]],
    "task after alignment in an update": [["align", "task"]],
    "joint": [["joint"], ["joint"]],
    "cached": [["task"], ["cached"], ["task", "cached"]],
    "checkpointed": [["task", "align"], ["joint"]],
}
"""The objective of each micro-batch of each update."""
WRAPPERS = ("ddp", "fsdp")


def distributed(trainable: Trainable, wrapper: str) -> Any:
    """As accelerate wraps it: DDP, or FSDP with each block a unit."""
    if wrapper == "ddp":
        return DistributedDataParallel(trainable, **DDP_OPTIONS)
    mesh = init_device_mesh("cpu", (2,))
    for block in trainable.loaded.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(trainable, mesh=mesh)


def run(name: str, rank: int = 0, wrapper: str | None = None) -> dict[str, Tensor]:
    """Train on this rank's rows; the adapter afterwards. Momentum tells a parameter without gradient from one whose is 0."""
    trainable = build()
    if name == "checkpointed":
        checkpoint_blocks(trainable.model)
    model: Any = distributed(trainable, wrapper) if wrapper else trainable
    no_sync = model.no_sync if wrapper == "ddp" else contextlib.nullcontext
    optimizer = torch.optim.SGD([p for p in trainable.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for update, objectives in enumerate(UPDATES[name]):
        for i, objective in enumerate(objectives):
            last = i == len(objectives) - 1
            with contextlib.nullcontext() if last else no_sync():
                how = {"no_sync": no_sync} if last else {}  # an outer no_sync would end with an inner one
                micro_batch(model, objective, 10 * update + i, rank, 2 if wrapper else 1, **how)
        optimizer.step()
        optimizer.zero_grad()
    trained = {key: parameter for key, parameter in trainable.named_parameters() if parameter.requires_grad}
    return {key: (p.full_tensor() if isinstance(p, DTensor) else p).detach() for key, p in trained.items()}


def micro_batch(model: Any, objective: str, seed: int, rank: int, world: int, **how: Any) -> None:
    """One backward pass of the loss that, averaged over ranks, is the loss of all rows."""
    rows = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    task, pairs = task_batch(ROWS, seed), pair_batch(ROWS, seed)
    count = (task.labels[:, 1:] != IGNORED).sum()  # of all ranks
    own_task, own_pairs = TaskBatch(*(field[rows] for field in task)), PairBatch(*(field[rows] for field in pairs))

    def loss_of(states: Tensor) -> Tensor:
        gathered = gather_with_grad(states)
        return info_nce(gathered[:, 0, 0], gathered[:, 1, 0], 0.1, rows=rows)

    if objective == "cached":
        parts = [PairBatch(*(field[part] for field in own_pairs)) for part in (slice(0, 2), slice(2, None))]
        cached_backward(lambda part: model(pairs=part, layers=[2]).states, parts, loss_of, CPU, **how)
        return
    passed = model(None if objective == "align" else own_task, None if objective == "task" else own_pairs, [2])
    losses = []
    if passed.nll is not None:
        losses.append(passed.nll * world / count)
    if passed.states is not None:
        losses.append(loss_of(passed.states))
    torch.stack(losses).sum().backward()


def rank_main(rank: int, folder: Path) -> None:
    """One of two gloo ranks: the adapter after each way to train."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trained = {wrapper: {name: run(name, rank, wrapper) for name in UPDATES} for wrapper in WRAPPERS}
    torch.save(trained, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks trained: this file run as two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", UPDATES)
def test_two_ranks_train_the_adapter_of_one_process(ranks: list[dict[str, Any]], name: str, wrapper: str) -> None:
    """Whichever way the objectives alternate, though an alignment leaves the upper blocks without gradient."""
    alone, start = run(name), {key: p.detach() for key, p in build().named_parameters() if p.requires_grad}
    for key, expected in alone.items():
        first, second = (found[wrapper][name][key] for found in ranks)
        assert torch.equal(first, second), key
        moved = (expected - start[key]).norm()
        assert moved > 0, key
        assert (first - expected).norm() < 1e-3 * moved, key


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), Path(sys.argv[2]))

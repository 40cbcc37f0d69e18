"""The contrastive loss: the paper's formula, the same over ranks as in one process, and no negatives that are translations."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from align.loss import gather_with_grad, info_nce, not_negatives
from probe.errors import AlignError

ROOT = Path(__file__).resolve().parents[1]
ROWS, WIDTH = 6, 5


def some_pairs(seed: int = 0, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randn(rows, WIDTH, generator=generator)
    return sources, sources + torch.randn(rows, WIDTH, generator=generator)


def by_definition(
    sources: Tensor, targets: Tensor, temperature: float, excluded: Tensor | None = None, rows: range | None = None
) -> float:
    """Equation 1 of the paper, term by term in double precision."""
    terms = []
    for i in rows or range(len(sources)):
        similarity = [
            math.exp(float(torch.cosine_similarity(sources[i].double(), target.double(), dim=0)) / temperature)
            for target in targets
        ]
        kept = [value for j, value in enumerate(similarity) if excluded is None or not excluded[i, j]]
        terms.append(-math.log(similarity[i] / sum(kept)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 1.5])
def test_the_loss_is_the_papers(temperature: float) -> None:
    sources, targets = some_pairs()
    one_way = info_nce(sources, targets, temperature)
    assert one_way.item() == pytest.approx(by_definition(sources, targets, temperature), rel=1e-5)
    both = info_nce(sources, targets, temperature, "symmetric")
    reverse = by_definition(targets, sources, temperature)
    assert both.item() == pytest.approx((by_definition(sources, targets, temperature) + reverse) / 2, rel=1e-5)
    assert reverse != pytest.approx(one_way.item(), rel=1e-3)  # so the test tells the directions apart


def test_its_gradient_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    sources, targets = (torch.randn(4, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    sources.requires_grad_()
    info_nce(sources, targets, 0.5).backward()
    for i, j in ((0, 0), (2, 1)):
        step = torch.zeros_like(targets)
        step[i, j] = 1e-5
        upper, lower = (by_definition(sources.detach() + sign * step, targets, 0.5) for sign in (1, -1))
        assert sources.grad is not None
        assert sources.grad[i, j].item() == pytest.approx((upper - lower) / 2e-5, abs=1e-5)


def test_the_length_of_vectors_does_not_count() -> None:
    sources, targets = some_pairs()
    longer = torch.arange(1, ROWS + 1)[:, None] * sources
    assert torch.allclose(info_nce(longer, targets, 0.1), info_nce(sources, targets, 0.1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    """Under autocast too, which would make the product of rows bf16."""
    sources, targets = (side.to(dtype) for side in some_pairs())
    expected = by_definition(sources.float(), targets.float(), 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = info_nce(sources, targets, 0.1)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_stop_gradient_holds_the_targets_still() -> None:
    """And changes neither the value nor what the sources are told."""
    gradients = {}
    for stop in (False, True):
        sources, targets = (side.requires_grad_() for side in some_pairs())
        loss = info_nce(sources, targets, 0.1, "symmetric", stop_gradient=stop)
        loss.backward()
        gradients[stop] = (loss.item(), sources.grad, targets.grad)
    assert gradients[True][0] == gradients[False][0]
    assert gradients[True][2] is None
    assert gradients[False][2] is not None
    assert torch.equal(gradients[True][1], gradients[False][1])


# ---- negatives -----------------------------------------------------------------------------------------------


def test_pairs_that_share_a_text_are_no_negatives() -> None:
    """The same source, the same target, a text of one on the other side of the other, neither; and those of one key."""
    excluded = not_negatives(["a", "b", "a", "c", "Z"], ["W", "X", "Y", "X", "b"])
    expected = torch.zeros(5, 5, dtype=torch.bool)
    for i, j in ((0, 2), (1, 3), (1, 4)):
        expected[i, j] = expected[j, i] = True
    assert torch.equal(excluded, expected)
    expected[0, 3] = expected[3, 0] = True
    keyed = not_negatives(["a", "b", "a", "c", "Z"], ["W", "X", "Y", "X", "b"], ["k", "l", "m", "k", "n"])
    assert torch.equal(keyed, expected)


def test_an_anchors_own_text_is_no_negative_where_both_directions_are_trained() -> None:
    """Aligned perfectly, the loss goes to 0; with the anchor's own text as a negative it could not fall below log 2."""
    meanings = torch.eye(4)[[0, 1, 2, 0, 1, 2]]
    sources, targets = ["a", "b", "c", "A", "B", "C"], ["A", "B", "C", "a", "b", "c"]
    loss = info_nce(meanings, meanings, 0.01, excluded=not_negatives(sources, targets))
    assert loss.item() < 1e-6


@pytest.mark.parametrize("direction", ["one-way", "symmetric"])
def test_what_is_excluded_does_not_enter_the_loss(direction: Any) -> None:
    sources, targets = some_pairs()
    excluded = not_negatives(["a", "b", "a", "c", "d", "e"], ["A", "B", "C", "B", "D", "E"])
    expected = by_definition(sources, targets, 0.1, excluded)
    if direction == "symmetric":
        expected = (expected + by_definition(targets, sources, 0.1, excluded)) / 2
    found = info_nce(sources, targets, 0.1, direction, excluded)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert found < info_nce(sources, targets, 0.1, direction)


def test_a_batch_of_copies_has_nothing_to_tell_apart() -> None:
    sources, targets = some_pairs()
    excluded = not_negatives(["a"] * ROWS, list("uvwxyz"))
    assert info_nce(sources, targets, 0.1, excluded=excluded).item() == 0


def test_a_wrong_negative_only_pushes_where_it_is_not_excluded() -> None:
    """The gradient on the source of pair 0 does not see the target of pair 2, which is a translation of it too."""
    (sources, targets), excluded = some_pairs(), not_negatives(list("abacde"), list("UVWXYZ"))
    other = targets.clone()
    other[2] = -targets[2]
    found = []
    for candidates in (targets, other):
        leaf = sources.clone().requires_grad_()
        info_nce(leaf, candidates, 0.1, excluded=excluded).backward()
        assert leaf.grad is not None
        found.append(leaf.grad)
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


# ---- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(AlignError, match=f"temperature {temperature}; expected more than 0"):
        info_nce(*some_pairs(), temperature)


def test_one_pair_is_refused() -> None:
    """Its loss would be 0 without a gradient, as if all were learnt."""
    with pytest.raises(AlignError, match="a batch of 1 pair"):
        info_nce(*some_pairs(rows=1), 0.1)


def test_nan_comes_out_as_nan() -> None:
    """The training loop stops on it and says at which batch."""
    sources, targets = some_pairs()
    sources[0, 0] = math.nan
    assert torch.isnan(info_nce(sources, targets, 0.1))


# ---- ranks ---------------------------------------------------------------------------------------------------


def encoder() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 4))


EXCLUDED = not_negatives(list("abacde"), list("UVWXVZ"))
CASES: dict[str, dict[str, Any]] = {
    "one-way": {"direction": "one-way"},
    "symmetric": {"direction": "symmetric"},
    "stop-gradient": {"direction": "one-way", "stop_gradient": True},
}


def rank_main(rank: int, folder: Path) -> None:
    """One of two gloo ranks: the gradient that DDP averages, for each case, and its loss."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    half = ROWS // 2
    rows = slice(rank * half, (rank + 1) * half)
    found: dict[str, Any] = {}
    for name, how in CASES.items():
        model = DistributedDataParallel(encoder())
        local = torch.cat([side[rows] for side in some_pairs()])
        sources, targets = (gather_with_grad(side) for side in model(local).chunk(2))
        loss = info_nce(sources, targets, 0.1, excluded=EXCLUDED, rows=rows, **how)
        loss.backward()
        found[name] = (loss.detach(), [parameter.grad for parameter in model.parameters()])
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks found: this file run as two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_gradient_of_one_process(ranks: list[dict[str, Any]], case: str) -> None:
    """The average over ranks, as DDP takes it, with the negatives of both; and the mean of their losses is the loss."""
    model = encoder()
    loss = info_nce(*(model(side) for side in some_pairs()), 0.1, excluded=EXCLUDED, **CASES[case])
    loss.backward()
    (first, gradients), (second, same) = (found[case] for found in ranks)
    assert ((first + second) / 2).item() == pytest.approx(loss.item(), rel=1e-6)
    assert first.item() != pytest.approx(second.item(), rel=1e-3)
    for parameter, found, other in zip(model.parameters(), gradients, same, strict=True):
        assert parameter.grad is not None
        assert torch.equal(found, other)
        assert torch.allclose(found, parameter.grad, rtol=1e-5, atol=1e-6)


def test_gradients_flow_through_the_other_ranks_rows(ranks: list[dict[str, Any]]) -> None:
    """Gathered rows as constants would give another gradient, so the comparison above can fail."""
    model, half = encoder(), ROWS // 2
    rows = [model(side) for side in some_pairs()]
    for part in (slice(0, half), slice(half, ROWS)):
        mixed = [torch.cat([side[i : i + 1] if part.start <= i < part.stop else side[i : i + 1].detach() for i in range(ROWS)]) for side in rows]  # fmt: skip
        (info_nce(*mixed, 0.1, excluded=EXCLUDED, rows=part) / 2).backward(retain_graph=True)
    whole = ranks[0]["one-way"][1]
    assert any(
        not torch.allclose(found, parameter.grad, rtol=1e-2)
        for found, parameter in zip(whole, model.parameters(), strict=True)
        if parameter.grad is not None
    )


def test_without_a_process_group_nothing_is_gathered() -> None:
    rows = torch.randn(3, 2)
    assert gather_with_grad(rows) is rows


def test_a_parts_loss_is_that_of_its_anchors() -> None:
    sources, targets = some_pairs()
    found = info_nce(sources, targets, 0.1, excluded=EXCLUDED, rows=slice(2, 4))
    assert found.item() == pytest.approx(by_definition(sources, targets, 0.1, EXCLUDED, range(2, 4)), rel=1e-5)


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), Path(sys.argv[2]))

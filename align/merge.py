"""Merge two LoRA adapters into one, w TASK + (1 - w) ALIGN, from their tensors alone: no base model is loaded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from align.adapter import module_of, read_adapter, scaling_of, write_adapter
from align.card import write_card
from probe.errors import AlignError
from probe.provenance import command, versions

Method = Literal["exact", "svd", "linear"]

_CARRIED = frozenset(
    {
        "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
        "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights",
        "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config",
    }
)  # fmt: skip
"""What a plain LoRA's description may say. Any other field that is set makes the change to a weight more than B A."""

_REASONS = {
    "use_dora": "DoRA rescales the sum of base weight and product, so two changes do not add",
    "bias": "biases were trained whole, and have no factors",
    "modules_to_save": "modules were trained whole, and have no factors",
    "trainable_token_indices": "token vectors were trained whole, and have no factors",
}

_BASE_KEPT = ("gaussian", "eva", "orthogonal", "mica")
"""Ways to draw the first A and B that leave the base weights as they are; PiSSA, OLoRA, CorDA and LoftQ change them."""

_TARGETING = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to one module's weight: the product B A, with alpha / r inside `scaling`."""

    a: Tensor
    """(rank, in) float64"""
    b: Tensor
    """(out, rank) float64"""
    scaling: float = 1.0
    embedding: bool = False
    """Whether the module is a table of embeddings, whose change is (B A) transposed."""

    @property
    def rank(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class MergedModule:
    """How one module came out."""

    name: str
    rank: int
    norm: float
    """Frobenius norm of w TASK + (1 - w) ALIGN."""
    error: float
    """Frobenius norm of what was saved minus that; of `exact` the rounding to float32 alone."""


@dataclass(frozen=True)
class MergeReport:
    """What a merged adapter is made of, and how far it is from the weighted sum."""

    method: Method
    weight: float
    base_model: str | None
    modules: tuple[MergedModule, ...]

    @property
    def relative_error(self) -> float:
        """Norm of all errors over the norm of the whole weighted sum; 0 where that is zero."""
        whole = math.hypot(*(module.norm for module in self.modules))
        return math.hypot(*(module.error for module in self.modules)) / whole if whole else 0.0


def merge_adapters(
    task: Path, align: Path, out: Path, weight: float = 0.9, method: Method = "exact", rank: int | None = None
) -> MergeReport:
    """Write the adapter w TASK + (1 - w) ALIGN; an adapter that is in `out` is replaced.

    A module that one adapter lacks counts as unchanged there. The factors are read as float64 and written in float32,
    whatever the precision of the inputs, with alpha = rank, so that the scaling is 1.

    Args:
        task, align, out: PEFT folders.
        weight: w, the share of TASK.
        method: `exact` sets the factors side by side, so that ranks add and the product is the weighted sum;
            `svd` is its best approximation of a lower rank (Eckart and Young 1936);
            `linear` averages A and B each, as PEFT does, which adds cross terms B1 A2 and B2 A1.
        rank: of `svd`; None: in each module the larger rank of the two adapters.

    Raises:
        AlignError: a weight outside 0..1; adapters of different base models; what is more than a LoRA (DoRA, biases,
            modules trained whole, base weights changed by the initialisation); for `linear` different ranks.
        ModelError: a folder that is no LoRA.
    """
    _check_choices(task, align, out, weight, method, rank)
    descriptions, parts = zip(*(_read(folder) for folder in (task, align)), strict=True)
    _require_one_base(task, align, descriptions, parts)
    if method == "linear":
        _require_equal_ranks(*parts)
    merged, modules = {}, []
    for name in sorted(parts[0].keys() | parts[1].keys()):
        terms = [
            (share * part[name].scaling, part[name])
            for share, part in zip((weight, 1 - weight), parts, strict=True)
            if name in part and share > 0
        ]
        if not terms:
            continue
        target = side_by_side(terms)
        if method == "svd":
            found = truncated(target, rank or max(part.rank for _, part in terms))
        else:
            found = averaged(terms) if method == "linear" else target
        saved = Factors(found.a.float(), found.b.float(), embedding=terms[0][1].embedding)
        difference = side_by_side([(1.0, Factors(saved.a.double(), saved.b.double())), (-1.0, target)])
        merged[name] = saved
        modules.append(MergedModule(name, saved.rank, product_norm(target), product_norm(difference)))
    write_adapter(out, _description(descriptions, parts, merged), _tensors(merged))
    return MergeReport(method, weight, descriptions[0].get("base_model_name_or_path"), tuple(modules))


def write_merged_card(
    out: Path, task: Path, align: Path, merged: MergeReport, losses: Mapping[float, float] | None = None
) -> None:
    """The model card of a merged adapter.

    Args:
        losses: development loss of each weight that was tried, if any were.
    """
    write_card(
        out,
        {
            "base_model": merged.base_model or "unknown",
            "made_by": f"Merged from two adapters, {merged.weight} {task.name} + {1 - merged.weight:.3g} {align.name}, method {merged.method}.",
            "data": [],
            "recipe": {"task": str(task), "align": str(align), "weight": merged.weight, "method": merged.method},
            "results": [{"weight": weight, "development loss": loss} for weight, loss in (losses or {}).items()]
            or [{"relative error of the weighted sum": merged.relative_error}],
            "versions": versions(),
            "command": command(),
        },
    )


def side_by_side(terms: Sequence[tuple[float, Factors]]) -> Factors:
    """The sum of c B A over the terms (c, factors), exactly: [c1 B1, c2 B2] [A1; A2]. Ranks add."""
    return Factors(torch.cat([part.a for _, part in terms]), torch.cat([c * part.b for c, part in terms], dim=1))


def averaged(terms: Sequence[tuple[float, Factors]]) -> Factors:
    """The sum of sqrt(c) B times the sum of sqrt(c) A over the terms (c, factors) of one rank: PEFT's `linear`."""
    return Factors(
        torch.stack([math.copysign(math.sqrt(abs(c)), c) * part.a for c, part in terms]).sum(dim=0),
        torch.stack([math.sqrt(abs(c)) * part.b for c, part in terms]).sum(dim=0),
    )


def truncated(factors: Factors, rank: int) -> Factors:
    """The product's best approximation of at most this rank in Frobenius norm, its singular values shared by both factors.

    By QR of the factors: B A = Q (R S^T) P^T, whose small core R S^T has the product's singular values.
    """
    q, r = torch.linalg.qr(factors.b)
    p, s = torch.linalg.qr(factors.a.T)
    u, values, vt = torch.linalg.svd(r @ s.T)
    root = values[:rank].sqrt()
    return Factors((p @ (vt[:rank].T * root)).T.contiguous(), q @ (u[:, :rank] * root))


def product_norm(factors: Factors) -> float:
    """Frobenius norm of B A, without the product: orthogonal factors do not change it."""
    r = torch.linalg.qr(factors.b, mode="r").R
    s = torch.linalg.qr(factors.a.T, mode="r").R
    return float(torch.linalg.matrix_norm(r @ s.T))


def _check_choices(task: Path, align: Path, out: Path, weight: float, method: str, rank: int | None) -> None:
    if not 0 <= weight <= 1:
        raise AlignError(f"weight {weight}", "a share of the task adapter from 0 to 1", "give another --weight")
    if method not in ("exact", "svd", "linear"):
        raise AlignError(f"method {method!r}", "exact, svd or linear", "give another --method")
    if rank is not None and (method != "svd" or rank < 1):
        raise AlignError(f"rank {rank} with method {method}", "1 or more, with svd", "leave it out, or use svd")
    if out.resolve() in (task.resolve(), align.resolve()):
        raise AlignError(f"{out} as input and output", "a folder of its own", "give another --out")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Factors]]:
    """An adapter's description and its factors by module.

    Raises:
        AlignError: more than a plain LoRA, NaN, a factor without the other.
    """
    description, tensors = read_adapter(folder)
    _refuse_more_than_lora(folder, description)
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.endswith(
            ".base_layer.weight"
        ):  # PEFT's frozen copy of embeddings beside their LoRA: the base model's own
            continue
        kind = name.removeprefix("base_model.model.").removeprefix(module_of(name)).removesuffix(".weight")
        if kind not in (".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B") or tensor.ndim != 2:
            raise AlignError(
                f"{folder} holds {name} of shape {tuple(tensor.shape)}, which cannot be merged",
                "the two factors of linear layers and embeddings alone",
                "train it without this part",
            )
        if not tensor.isfinite().all():
            raise AlignError(f"{folder} holds NaN or inf in {name}", "finite weights", "train it again")
        factors.setdefault(module_of(name), {})[kind] = tensor.double()
    for name, pair in factors.items():
        shapes = [tuple(pair[kind].shape) for kind in sorted(pair)]
        if len(shapes) != 2 or shapes[0][0] != shapes[1][1]:
            raise AlignError(f"{folder} holds factors {shapes} of {name}", "A and B of one rank", "save it again")
    if not factors:
        raise AlignError(f"{folder} without any LoRA", "at least one module's factors", "save it again")
    return description, {name: _factors(description, name, pair) for name, pair in factors.items()}


def _factors(description: Mapping[str, Any], name: str, pair: Mapping[str, Tensor]) -> Factors:
    a, b = (pair[kind] for kind in sorted(pair))
    return Factors(a, b, scaling_of(description, name, len(a)), embedding=".lora_embedding_A" in pair)


def _refuse_more_than_lora(folder: Path, description: Mapping[str, Any]) -> None:
    for field, value in description.items():
        if field not in _CARRIED and value not in (None, False, "none", [], {}):
            reason = _REASONS.get(field, "its effect is more than a product of two factors")
            raise AlignError(
                f"{folder} with {field} {value!r} cannot be merged ({reason})", "a plain LoRA", "train it without"
            )
    start = description.get("init_lora_weights", True)
    if isinstance(start, str) and start not in _BASE_KEPT:
        raise AlignError(
            f"{folder} with init_lora_weights {start!r} cannot be merged (it changes the base weights, too)",
            "an adapter of the unchanged base model",
            "convert it to a plain LoRA with PEFT",
        )


def _require_one_base(
    task: Path, align: Path, descriptions: tuple[dict[str, Any], ...], parts: tuple[dict[str, Factors], ...]
) -> None:
    """Raises:
    AlignError: other base models by name, revision, shape of a module, or names with and without a head.
    """
    for field in ("base_model_name_or_path", "revision"):
        ours, theirs = (description.get(field) for description in descriptions)
        if ours != theirs:
            raise AlignError(
                f"{task} of {field} {ours} and {align} of {theirs}", "adapters of one base model", "give another pair"
            )
    for name in sorted(parts[0].keys() & parts[1].keys()):
        shapes = [(len(part[name].b), part[name].a.shape[1], part[name].embedding) for part in parts]
        if shapes[0] != shapes[1]:
            raise AlignError(
                f"{name} is {shapes[0][:2]} in {task} and {shapes[1][:2]} in {align}",
                "adapters of one base model",
                "give another pair",
            )
    for one, other in (parts, parts[::-1]):
        for name in one.keys() - other.keys():
            longer = [whole for whole in other if whole.endswith(f".{name}")]
            if longer:
                raise AlignError(
                    f"{name} in one adapter and {longer[0]} in the other",
                    "adapters of the model with the same head, or none",
                    "train one of them again",
                )


def _require_equal_ranks(task: Mapping[str, Factors], align: Mapping[str, Factors]) -> None:
    ranks = {name: (task[name].rank, align[name].rank) for name in sorted(task.keys() & align.keys())}
    unequal = [name for name, (ours, theirs) in ranks.items() if ours != theirs]
    if unequal:
        raise AlignError(
            f"method linear with ranks {ranks[unequal[0]][0]} and {ranks[unequal[0]][1]} of {unequal[0]}",
            "equal ranks",
            "use exact or svd",
        )


def _description(
    descriptions: tuple[dict[str, Any], ...], parts: tuple[dict[str, Factors], ...], merged: Mapping[str, Factors]
) -> dict[str, Any]:
    """The merged adapter's `adapter_config.json`."""
    task, align = descriptions
    rank, exceptions = rank_patterns({name: part.rank for name, part in merged.items()})
    same_targets = parts[0].keys() == parts[1].keys() == merged.keys() and all(
        _as_set(task.get(field)) == _as_set(align.get(field)) for field in _TARGETING
    )
    targeting = {field: task.get(field) for field in _TARGETING} if same_targets else {"target_modules": sorted(merged)}
    return {
        "peft_type": "LORA",
        "task_type": task.get("task_type"),
        "auto_mapping": task.get("auto_mapping"),
        "base_model_name_or_path": task.get("base_model_name_or_path"),
        "revision": task.get("revision"),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": exceptions,
        "alpha_pattern": exceptions,
        "use_rslora": False,
        "lora_dropout": task.get("lora_dropout", 0.0),
        "fan_in_fan_out": any(description.get("fan_in_fan_out", False) for description in descriptions),
        "bias": "none",
        **targeting,
    }


def _as_set(value: Any) -> Any:
    return frozenset(value) if isinstance(value, list) else value


def rank_patterns(ranks: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """The most frequent rank, and the others by PEFT's patterns: a module's last name where all of that name agree."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    by_leaf: dict[str, set[int]] = {}
    for name, rank in ranks.items():
        by_leaf.setdefault(name.rpartition(".")[2], set()).add(rank)
    exceptions = {}
    for name, rank in ranks.items():
        leaf = name.rpartition(".")[2]
        if rank != common:
            exceptions[leaf if len(by_leaf[leaf]) == 1 else name] = rank
    return common, exceptions


def _tensors(merged: Mapping[str, Factors]) -> dict[str, Tensor]:
    """By PEFT's names in the file."""
    tensors: dict[str, Tensor] = {}
    for name, part in merged.items():
        pattern = f"base_model.model.{name}." + ("lora_embedding_{}" if part.embedding else "lora_{}.weight")
        tensors |= {pattern.format("A"): part.a.contiguous(), pattern.format("B"): part.b.contiguous()}
    return tensors

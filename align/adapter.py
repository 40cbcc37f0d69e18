"""LoRA adapters in PEFT's format: attach a trained one, train a new one, save, load. The home of peft."""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from probe.errors import AlignError, ModelError
from probe.model import LoadedModel, find_blocks

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_FAMILIES = (
    {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},  # Llama, Qwen, Mistral, Gemma, OLMo
    {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},  # Phi-3
    {"c_attn", "c_proj", "c_fc"},  # GPT-2
    {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},  # BLOOM, GPT-NeoX, Falcon
    {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},  # OPT, XGLM, NLLB, BART
    {"q", "k", "v", "o", "wi", "wo"},  # T5
    {"q", "k", "v", "o", "wi_0", "wi_1", "wo"},  # mT5
    {"query", "key", "value", "dense"},  # BERT, XLM-R, ELECTRA
    {"query_proj", "key_proj", "value_proj", "dense"},  # DeBERTa
    {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"},  # DistilBERT
    {"Wqkv", "Wi", "Wo"},  # ModernBERT
)
"""The linear layers of a block: the projections of attention and feed-forward, by the names that architectures give them."""


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA to be trained (Hu et al. 2021); the defaults are those of the paper's own configuration.

    Raises:
        AlignError: a rank below 1, an alpha of 0 or less, a dropout outside [0, 1), no targets.
    """

    r: int = 8
    """Rank."""
    alpha: int = 16
    """The product B A is multiplied by alpha / r."""
    dropout: float = 0.1
    """Of the input of A, in training."""
    targets: Literal["auto"] | tuple[str, ...] = "auto"
    """Names of linear layers inside the blocks; `auto`: all projections of attention and feed-forward."""
    rslora: bool = False
    """alpha / sqrt(r) instead (Kalajdzievski 2023)."""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise AlignError(f"a LoRA of rank {self.r}", "1 or more", "set r")
        if not self.alpha > 0:
            raise AlignError(f"a LoRA with alpha {self.alpha}", "more than 0", "set alpha")
        if not 0 <= self.dropout < 1:
            raise AlignError(f"a LoRA with dropout {self.dropout}", "0 or more, below 1", "set dropout")
        if self.targets != "auto" and (isinstance(self.targets, str) or not self.targets):
            raise AlignError(f"LoRA targets {self.targets!r}", "auto, or a list of names", "set targets")


class _Headed(nn.Module):
    """Gives the base model's modules the names they have below an LM head, for which most adapters were trained.

    So a head need not be loaded, and names that an adapter matches by pattern mean the same as in training.

    Args:
        prefix: what stands before the names: `model`, or `model.encoder` for the encoder of an encoder-decoder.
    """

    def __init__(self, prefix: str, base: nn.Module) -> None:
        super().__init__()
        first, _, rest = prefix.partition(".")
        self.add_module(first, _Headed(rest, base) if rest else base)


def find_adapter(name: str) -> Path:
    """The folder of an adapter: a local one, or a hub repository's, downloaded.

    Raises:
        ModelError: no adapter there.
    """
    folder = Path(name)
    if not folder.is_dir() and "/" in name and not folder.is_absolute():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=["adapter_*"]))
        except Exception as error:  # network, access or name: the hub's own reason is passed on
            raise ModelError(
                f"adapter {name} cannot be had ({' '.join(str(error).split())[:200]})",
                "a PEFT folder or a hub id",
                "check the name or the network",
            ) from error
    if not (folder / _CONFIG).is_file():
        raise ModelError(f"adapter {name} holds no adapter_config.json", "a folder that PEFT saved", "check the path")
    _require_lora(folder)
    return folder


def _require_lora(folder: Path) -> None:
    """Raises:
    ModelError: another kind of adapter, or a folder without weights, for which PEFT would ask the hub.
    """
    kind = _description(folder).get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder} is an adapter of type {kind}", "LORA", "merge it into the model first")
    if not any((folder / name).is_file() for name in (_WEIGHTS, "adapter_model.bin")):
        raise ModelError(f"{folder} holds no adapter_model.safetensors", "a folder that PEFT saved", "check the path")


def _description(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} cannot be read ({error})", "PEFT's description of an adapter", "save it again"
        ) from None


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A LoRA's description (`adapter_config.json`) and its tensors by their names in the file, on the CPU.

    Raises:
        ModelError: another kind of adapter, a missing or damaged file.
    """
    from peft.utils import load_peft_weights

    _require_lora(folder)
    try:
        tensors = load_peft_weights(str(folder), device="cpu")
    except Exception as error:  # safetensors and pickle raise classes of their own for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder} cannot be read ({reason})", "a LoRA that PEFT saved", "save it again") from error
    return _description(folder), tensors


def scaling_of(description: Mapping[str, Any], module: str, rank: int) -> float:
    """What the product B A of a module is multiplied by: alpha / r, or alpha / sqrt(r) for rsLoRA.

    Args:
        module: its name in the model that was trained, which `alpha_pattern` speaks of.
        rank: rows of A.
    """
    from peft.utils.other import get_pattern_key

    patterns: dict[str, float] = description.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), module), description["lora_alpha"])
    return float(alpha) / (rank**0.5 if description.get("use_rslora") else rank)


def write_adapter(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write an adapter whole or not at all: a run that is killed leaves the former one, or none.

    A folder holds an adapter when it holds its description. So the weights go first, and a description of other weights
    is taken away before them.

    Args:
        tensors: by their names in the file (`module_of` reads them).

    Raises:
        AlignError: no permission, a full disk.
    """
    from safetensors.torch import save_file

    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            save_file(dict(tensors), Path(partial) / _WEIGHTS, metadata={"format": "pt"})
            (Path(partial) / _CONFIG).write_text(text, encoding="utf-8")
            shutil.copymode(
                Path(partial) / _CONFIG, Path(partial) / _WEIGHTS
            )  # safetensors keeps its files to their owner
            before = folder / _CONFIG
            if before.is_file() and before.read_text(encoding="utf-8") != text:
                before.unlink()
            os.replace(Path(partial) / _WEIGHTS, folder / _WEIGHTS)
            os.replace(Path(partial) / _CONFIG, before)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell in one line why an adapter's folder cannot be written.

    Raises:
        AlignError: a full disk, a folder that is read-only or not a folder.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = (
            "the disk is full" if full else " ".join((getattr(error, "strerror", None) or str(error)).split())[:120]
        )
        raise AlignError(
            f"{folder} cannot be written ({reason})",
            "a writable folder with free space",
            "mend that, or give another --out",
        ) from error


def attach(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """The model with a LoRA adapter active, its weights beside the frozen ones (not merged, so nothing is rounded).

    Weights that the adapter holds whole (`modules_to_save`, biases, embeddings) replace the model's. Tensors of the
    adapter that belong to a head or a decoder which is not part of the probed model are left out; every other tensor
    must find its place.

    Raises:
        ModelError: another kind of adapter, or one made for another base model.
    """
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict

    weights = read_adapter(folder)[1]
    config: Any = PeftConfig.from_pretrained(str(folder))
    prefix = _prefix_of(weights, loaded, folder)
    inside = {
        name: tensor for name, tensor in weights.items() if module_of(name).startswith(f"{prefix}." if prefix else "")
    }
    ours = {name: tensor for name, tensor in inside.items() if "lora_" in name}
    _replace_whole(loaded, {_within(name, prefix): inside[name] for name in inside if name not in ours}, folder)
    holder: nn.Module = _Headed(prefix, loaded.model) if prefix else loaded.model
    config.inference_mode = True
    config.modules_to_save = None
    try:
        inject_adapter_in_model(config, holder)
        for name, parameter in holder.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()  # injected, it has the dtype of the layer, which would round it
        outcome: Any = set_peft_model_state_dict(holder, ours)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _misfit(folder, " ".join(str(error).split())[:200]) from error
    given = {_place_of(name) for name in ours}
    absent = [
        name
        for name, _ in holder.named_parameters()
        if "lora_" in name and "pooler" not in name and _place_of(name) not in given  # a pooler comes after all blocks
    ]
    if outcome.unexpected_keys or absent or not ours:
        raise _misfit(
            folder, f"{len(outcome.unexpected_keys)} tensors find no place, {len(absent)} places have no tensor"
        )
    return replace(loaded, model=loaded.model.eval())


def _replace_whole(loaded: LoadedModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Put weights that were trained whole, by their names in the model, in the place of the model's."""
    for name, tensor in weights.items():
        if ".modules_to_save." in name or ".original_module." in name:  # PEFT's copies, stored beside the plain name
            continue
        try:
            own = loaded.model.get_parameter(name)
        except AttributeError:
            raise _misfit(folder, f"{name} finds no place") from None
        if own.shape != tensor.shape:
            raise _misfit(folder, f"{name} is {tuple(tensor.shape)}, the model's {tuple(own.shape)}")
        with torch.no_grad():
            own.copy_(tensor)


def _prefix_of(weights: dict[str, Any], loaded: LoadedModel, folder: Path) -> str:
    """What stands before the base model's own module names in the adapter: `model`, `transformer`, ... or nothing.

    Never a decoder, whose blocks may have the names of the encoder's: of an encoder-decoder the encoder is probed.
    """
    own = {name for name, _ in loaded.model.named_modules()}
    for name in weights:
        parts = module_of(name).split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own and len(parts) - cut > 2 and parts[cut - 1 : cut] != ["decoder"]:
                return ".".join(parts[:cut])
    raise _misfit(folder, "none of its modules is in the model")


def module_of(name: str) -> str:
    """The module of a tensor in the adapter file: its name without PEFT's own prefix and without `.lora_A.weight`."""
    return name.removeprefix("base_model.model.").split(".lora_")[0]


def _within(name: str, prefix: str) -> str:
    """A whole weight's name in the model, from its name in the adapter file."""
    return name.removeprefix("base_model.model.").removeprefix(f"{prefix}.").replace(".base_layer.", ".")


def _place_of(name: str) -> str:
    """The same for a LoRA tensor in the adapter file and for its parameter in the model, where PEFT names it longer."""
    return name.removeprefix("base_model.model.").replace(".default", "").removesuffix(".weight")


def _misfit(folder: Path, reason: str) -> ModelError:
    base = _description(folder).get("base_model_name_or_path")
    return ModelError(
        f"{folder} does not fit the model ({reason})", f"its base model, {base}", "give that model, or another adapter"
    )


def add_lora(model: Any, settings: LoraSettings, seed: int) -> dict[str, nn.Parameter]:
    """Put a fresh LoRA into a model, in place: trainable, in float32, all else frozen. At first it changes nothing.

    A is drawn as PEFT does (Kaiming, uniform), B is zero. The draw depends on the seed alone: not on the random state
    around, which is left as it was, nor on the device, nor on whether the model has its head.

    Args:
        model: a causal LM, its base model without the head, or an encoder (of an encoder-decoder too).

    Returns:
        The trainable parameters by their names in the model.

    Raises:
        AlignError: linear layers of unknown names, a target that the blocks do not hold, a model that has a LoRA.
        ModelError: blocks that cannot be told.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if any("lora_" in name for name, _ in model.named_parameters()):
        raise AlignError("a model that has a LoRA", "one without", "load it again, or go on training that one")
    prefix, blocks = _prefix_below_head(model), find_blocks(model)
    linear = _linear_layers(model.get_submodule(blocks))
    targets = _targets(settings.targets, linear, type(model).__name__)
    config: Any = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=targets,
        exclude_modules=_outside(model, prefix, blocks, targets),
        fan_in_fan_out=any(_is_conv1d(layer) for name, layer in linear.items() if _named(name, targets)),
        task_type="CAUSAL_LM" if _is_causal(model) else "FEATURE_EXTRACTION",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # PEFT draws on the CPU; the generators of GPUs are left alone
        inject_adapter_in_model(config, _Headed(prefix, model) if prefix else model)
    model.peft_config = {"default": config}  # where PEFT keeps it, and `save_adapter` finds it
    model.train(model.training)  # the new dropout too
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in trainable.values():
        parameter.data = parameter.data.float()  # small updates would be lost in bf16
    return trainable


def _targets(wanted: str | tuple[str, ...], linear: Mapping[str, nn.Module], architecture: str) -> list[str]:
    found = {name.rpartition(".")[2] for name in linear}
    if wanted == "auto":
        if found not in _FAMILIES:
            raise AlignError(
                f"{architecture} with linear layers {', '.join(sorted(found)) or 'none'} in its blocks",
                "those of a known architecture",
                "name the ones to train as targets",
            )
        return sorted(found)
    for target in wanted:
        if not any(_named(name, [target]) for name in linear):
            raise AlignError(
                f"LoRA target {target!r} in {architecture}", f"of {', '.join(sorted(found))}", "set targets"
            )
    return sorted(wanted)


def _linear_layers(module: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear) or _is_conv1d(layer)}


def _is_conv1d(layer: nn.Module) -> bool:
    """GPT-2's linear layer, which stores its weight as (in, out)."""
    return type(layer).__name__ == "Conv1D"


def _named(name: str, targets: list[str]) -> bool:
    """Whether PEFT takes a module for one of these."""
    return any(f".{name}".endswith(f".{target}") for target in targets)


def _outside(model: Any, prefix: str, blocks: str, targets: list[str]) -> str | None:
    """A pattern for all that is outside the blocks, where modules there have the targets' names; None where none has.

    BERT's pooler and head are such; in an encoder-decoder it is the decoder.
    """
    others = [name for name, _ in model.named_modules() if not name.startswith(f"{blocks}.")]
    if not any(_named(name, targets) for name in others) and not model.config.is_encoder_decoder:
        return None
    return rf"(?!{re.escape(_joined(prefix, blocks))}\.\d).*"


def _prefix_below_head(model: Any) -> str:
    """What stands before the model's own module names where adapters are loaded.

    That is under a language-model head for a decoder, and in the base model for an encoder: an adapter of the encoder of
    an encoder-decoder is one of the two together.
    """
    if model.config.is_encoder_decoder:
        return "encoder"
    headless = model.get_output_embeddings() is None
    return str(model.base_model_prefix) if headless and _is_causal(model) else ""


def _is_causal(model: Any) -> bool:
    """Whether tokens see only what is before them: by the flag of the attention, else by a cache that the model takes."""
    modules = model.get_submodule(find_blocks(model)).modules()
    flags = {module.is_causal for module in modules if isinstance(getattr(module, "is_causal", None), bool)}
    return True in flags if flags else "past_key_values" in inspect.signature(model.forward).parameters


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _file_name(name: str, prefix: str) -> str:
    """A LoRA parameter's name in the adapter file, from its name in the model."""
    return _joined("base_model.model", prefix, name.replace(".default", ""))


def save_adapter(
    model: Any,
    folder: Path,
    base_name: str,
    revision: str | None = None,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Save the LoRA of `add_lora` in PEFT's format, whole or not at all.

    A decoder's tensors have the names that `PeftModel.save_pretrained` gives them in a causal LM, also where the model
    was trained without its head; an encoder's those of its base model.

    Args:
        base_name: the base model, by the name that loads it.
        revision: of the base model on the hub.
        state: the parameters by name, where the model's own are shards of them.

    Raises:
        AlignError: no permission, a full disk, NaN in the weights.
    """
    config: Any = replace(
        model.peft_config["default"], base_model_name_or_path=base_name, revision=revision, inference_mode=True
    )
    prefix = _prefix_below_head(model)
    state = dict(model.named_parameters()) if state is None else state
    tensors = {
        _file_name(name, prefix): state[name].detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AlignError(f"{name} holds NaN or inf", "finite weights", "the training went wrong: lower its rate")
    with tempfile.TemporaryDirectory() as written:
        config.save_pretrained(written)
        description = _description(Path(written))
    write_adapter(folder, description, tensors)


def load_adapter_weights(model: Any, folder: Path) -> None:
    """Put saved weights into the LoRA of `add_lora`, bit by bit, to go on with its training; all ranks together.

    Raises:
        AlignError: an adapter of other modules, ranks or scaling.
        ModelError: a folder that holds no LoRA.
    """
    from align.sharded import part_for

    description, tensors = read_adapter(folder)
    config = model.peft_config["default"]
    for field in ("r", "lora_alpha", "use_rslora"):
        if description.get(field) != getattr(config, field):
            raise AlignError(
                f"{folder} with {field} {description.get(field)}",
                f"{getattr(config, field)}",
                "resume with its settings",
            )
    prefix = _prefix_below_head(model)
    places = {_file_name(name, prefix): place for name, place in model.named_parameters() if "lora_" in name}
    for name in sorted(places.keys() | tensors.keys()):
        given = tuple(tensors[name].shape) if name in tensors else None
        own = tuple(places[name].shape) if name in places else None
        if given != own:
            raise AlignError(f"{folder} with {name} of shape {given}", f"{own}", "resume with its model and targets")
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(part_for(place, tensors[name]))

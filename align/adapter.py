"""LoRA adapters in PEFT's format. The home of peft."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probe.errors import ModelError
from probe.model import LoadedModel


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
                f"--adapter {name} cannot be had ({' '.join(str(error).split())[:200]})",
                "a PEFT folder or a hub id",
                "check the name or the network",
            ) from error
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"--adapter {name} holds no adapter_config.json", "a folder that PEFT saved", "check the path")
    _require_lora(folder)
    return folder


def _require_lora(folder: Path) -> None:
    """Raises:
    ModelError: another kind of adapter, or a folder without weights, for which PEFT would ask the hub.
    """
    kind = _description(folder).get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder} is an adapter of type {kind}", "LORA", "merge it into the model first")
    if not any((folder / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        raise ModelError(f"{folder} holds no adapter_model.safetensors", "a folder that PEFT saved", "check the path")


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} cannot be read ({error})", "PEFT's description of an adapter", "save it again"
        ) from None


def attach(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """The model with a LoRA adapter active, its weights beside the frozen ones (not merged, so nothing is rounded).

    Weights that the adapter holds whole (`modules_to_save`, biases, embeddings) replace the model's. Tensors of the
    adapter that belong to a head or a decoder which is not part of the probed model are left out; every other tensor
    must find its place.

    Raises:
        ModelError: another kind of adapter, or one made for another base model.
    """
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    _require_lora(folder)
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    except Exception as error:  # safetensors and pickle raise classes of their own for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder} cannot be read ({reason})", "a LoRA that PEFT saved", "save it again") from error
    prefix = _prefix_of(weights, loaded, folder)
    inside = {
        name: tensor for name, tensor in weights.items() if _module_of(name).startswith(f"{prefix}." if prefix else "")
    }
    ours = {name: tensor for name, tensor in inside.items() if "lora_" in name}
    _replace_whole(loaded, {_within(name, prefix): inside[name] for name in inside if name not in ours}, folder)
    holder: nn.Module = _Headed(prefix, loaded.model) if prefix else loaded.model
    config.inference_mode = True
    config.modules_to_save = None
    try:
        inject_adapter_in_model(config, holder)
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
        parts = _module_of(name).split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own and len(parts) - cut > 2 and parts[cut - 1 : cut] != ["decoder"]:
                return ".".join(parts[:cut])
    raise _misfit(folder, "none of its modules is in the model")


def _module_of(name: str) -> str:
    """Module of a tensor's name in the adapter file: without PEFT's own prefix and without `.lora_A.weight`."""
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

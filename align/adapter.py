"""LoRA adapters in PEFT's format. The home of peft."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from probe.errors import ModelError
from probe.model import LoadedModel


class _Headed(nn.Module):
    """Gives the base model's modules the names they have below an LM head, for which most adapters were trained.

    So a head need not be loaded, and names that an adapter matches by pattern mean the same as in training.
    """

    def __init__(self, prefix: str, base: nn.Module) -> None:
        super().__init__()
        self.add_module(prefix, base)


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
    return folder


def attach(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """The model with a LoRA adapter active, its weights beside the frozen ones (not merged, so nothing is rounded).

    Tensors of the adapter that belong to a head or a decoder which is not part of the probed model are left out; every
    other tensor must find its place.

    Raises:
        ModelError: another kind of adapter, or one made for another base model.
    """
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    config: Any = PeftConfig.from_pretrained(str(folder))
    if config.peft_type != "LORA":
        raise ModelError(
            f"{folder} is an adapter of type {config.peft_type.value}", "LORA", "merge it into the model first"
        )
    weights = load_peft_weights(str(folder), device="cpu")
    prefix = _prefix_of(weights, loaded)
    holder: nn.Module = _Headed(prefix, loaded.model) if prefix else loaded.model
    config.inference_mode = True
    config.modules_to_save = None
    ours = {
        name: tensor
        for name, tensor in weights.items()
        if _module_of(name).startswith(f"{prefix}." if prefix else "") and "lora_" in name
    }
    try:
        inject_adapter_in_model(config, holder)
        outcome: Any = set_peft_model_state_dict(holder, ours)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _misfit(folder, " ".join(str(error).split())[:200]) from error
    absent = [name for name, _ in holder.named_parameters() if "lora_" in name and not _is_given(name, ours)]
    if outcome.unexpected_keys or absent or not ours:
        raise _misfit(
            folder, f"{len(outcome.unexpected_keys)} tensors find no place, {len(absent)} places have no tensor"
        )
    return replace(loaded, model=loaded.model.eval())


def _prefix_of(weights: dict[str, Any], loaded: LoadedModel) -> str:
    """What stands before the base model's own module names in the adapter: `model`, `transformer`, ... or nothing."""
    own = {name for name, _ in loaded.model.named_modules()}
    for name in weights:
        parts = _module_of(name).split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own and len(parts) - cut > 2:
                return ".".join(parts[:cut])
    raise ModelError(
        "an adapter none of whose modules is in the model",
        "an adapter of this base model",
        "check base_model_name_or_path in adapter_config.json",
    )


def _module_of(name: str) -> str:
    """Module of a tensor's name in the adapter file: without PEFT's own prefix and without `.lora_A.weight`."""
    return name.removeprefix("base_model.model.").split(".lora_")[0]


def _is_given(parameter: str, tensors: dict[str, Any]) -> bool:
    return "base_model.model." + parameter.replace(".default", "") in tensors


def _misfit(folder: Path, reason: str) -> ModelError:
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    return ModelError(
        f"{folder} does not fit the model ({reason})", f"its base model, {base}", "give that model, or another adapter"
    )

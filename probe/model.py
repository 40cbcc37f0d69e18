"""Load a model and its tokenizer, find the block list of any decoder or encoder, and run its first blocks."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data_manifests import data_folder, languages
from probe.device import fast_linears
from probe.errors import ModelError
from probe.share import processes_here
from probe.tiny import tiny_causal_model, tiny_model, tiny_tokenizer

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "config.json", "adapter_config.json", "*.py")
"""What decides the hidden states of a local folder; transformers attaches an adapter that lies there by itself."""


_TINY, _LAB = "builtin:tiny", "builtin:lab"
"""Embedded models: an untrained one that is built in code, and a trained one whose files lie in the package."""


@dataclass(frozen=True)
class ModelSource:
    """A model before its weights are loaded: enough to plan a run, check it and compare it with a store."""

    name: str
    tokenizer: Any
    skeleton: Any
    """The base model on the meta device: its structure without memory."""
    identity: Mapping[str, Any]
    """Model id with resolved revision or weights digest, adapter digest (and hub id), tokenizer digest: goes into the store's manifest."""
    trust_remote_code: bool = False

    @cached_property
    def depth(self) -> int:
        """Number of blocks; hidden states are numbered 0 (input of block 1) to `depth` (output of the last)."""
        return len(self.skeleton.get_submodule(find_blocks(self.skeleton)))

    @property
    def hidden_size(self) -> int:
        return int(text_config(self.skeleton).hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model has an embedding for; the tokenizer's may differ."""
        return len(self.skeleton.get_input_embeddings().weight)

    @cached_property
    def context(self) -> int:
        """The longest sentence in tokens that model and tokenizer take."""
        return context_length(self.skeleton, self.tokenizer)


@dataclass(frozen=True)
class LoadedModel:
    """A base model without LM head (of an encoder-decoder: its encoder) and its tokenizer."""

    model: Any
    tokenizer: Any

    @cached_property
    def blocks_name(self) -> str:
        return find_blocks(self.model)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.get_submodule(self.blocks_name)

    @property
    def depth(self) -> int:
        """Number of blocks of the whole model, inside `shortened` too."""
        return int(text_config(self.model).num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(text_config(self.model).hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the token ids go: the device of the input embeddings."""
        return self.model.get_input_embeddings().weight.device

    @property
    def pad_id(self) -> int:
        """What fills the shorter rows of a batch. The mask hides it, so any token of the model will do where the
        tokenizer has no pad token, or one that was added without an embedding for it."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and pad < len(self.model.get_input_embeddings().weight) else 0


def open_model(
    name: str, revision: str | None = None, adapter: Path | None = None, trust_remote_code: bool = False
) -> ModelSource:
    """Find a model by hub id, local folder, `builtin:lab` or `builtin:tiny`; reads its configuration and tokenizer, not its weights.

    Args:
        adapter: a PEFT folder that will be attached; here only its digest is taken.

    Raises:
        ModelError: unknown model, or an architecture whose blocks cannot be told.
    """
    if revision is not None and (name.startswith("builtin:") or Path(name).is_dir()):
        raise ModelError(
            f"--revision {revision} of {name}", "a hub model, since only the hub keeps revisions", "leave it out"
        )
    if name.startswith("builtin:") and name not in (_LAB, _TINY):
        raise ModelError(f"no embedded model {name!r}", f"{_LAB} or {_TINY}", "use it, a hub id, or a folder")
    if name == _TINY:
        skeleton, tokenizer = tiny_model(), tiny_tokenizer()
        known_as, resolved = name, None
        weights: str | None = state_digest(skeleton)
    else:
        config, tokenizer = _load_config_and_tokenizer(name, revision, trust_remote_code)
        skeleton = _skeleton(config, trust_remote_code)
        place = _place(name)
        resolved = None if Path(place).is_dir() else _commit(name, revision)
        # A local folder is known by its content: where it lies says nothing, and would tie a store to one machine.
        known_as = name if resolved or name == _LAB else Path(name).resolve().name
        weights = None if resolved else folder_digest(Path(place), _WEIGHT_FILES)
    identity = {
        "name": known_as,
        "revision": resolved,
        "weights": weights,
        "adapter": adapter and folder_digest(adapter, ("adapter_config.json", "adapter_model.*")),
        "adapter_name": adapter and _hub_name(adapter),
        "tokenizer": tokenizer_digest(tokenizer),
    }
    source = ModelSource(name, tokenizer, skeleton, identity, trust_remote_code)
    refuse_leaky_blocks(skeleton)
    return source


def _place(name: str) -> str:
    """What transformers loads: of `builtin:lab` the folder in the package, else the name itself."""
    return str(data_folder() / "models" / "lab") if name == _LAB else name


def _hub_name(folder: Path) -> str | None:
    """The repository of a folder in the hub's cache (`models--owner--name/snapshots/...`); None for any other folder."""
    names = [part for part in folder.parts if part.startswith("models--")]
    return names[-1].removeprefix("models--").replace("--", "/") if names else None


def load_model(source: ModelSource, dtype: torch.dtype, device: torch.device, spread: bool = False) -> LoadedModel:
    """Load the weights.

    Args:
        spread: whether the blocks may be spread over several GPUs where one is too small.

    Raises:
        ModelError: weights that cannot be loaded, that leave a block random, or that several processes would spread.
    """
    if source.name == _TINY:
        tiny: Any = tiny_model()
        return LoadedModel(tiny.to(device=device, dtype=dtype), source.tokenizer)
    from transformers import AutoModel

    model, missing = _read_weights(AutoModel, source, dtype, device, spread)
    probed = _encoder(model)
    _refuse_random_weights(source.name, model, probed, missing)
    return LoadedModel(probed.eval(), source.tokenizer)


def has_lm_head(source: ModelSource) -> bool:
    """Whether the model was saved as one that predicts the next token: not as an encoder, a bare base or a classifier."""
    if source.name == _TINY:
        return True
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = source.skeleton.config
    headed = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    return headed in (config.architectures or ()) or "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})


def load_causal(source: ModelSource, dtype: torch.dtype, device: torch.device) -> tuple[Any, LoadedModel]:
    """Load the weights with the LM head.

    Returns:
        The causal language model, and the base model inside it, which shares its modules.

    Raises:
        ModelError: weights that cannot be loaded, or that leave a block or the head random.
    """
    if source.name == _TINY:
        tiny: Any = tiny_causal_model()
        model = tiny.to(device=device, dtype=dtype)
    else:
        from transformers import AutoModelForCausalLM

        model, missing = _read_weights(AutoModelForCausalLM, source, dtype, device)
        _refuse_random_weights(source.name, model, model, missing)
    return model.eval(), LoadedModel(model.base_model, source.tokenizer)


def _read_weights(
    auto: Any, source: ModelSource, dtype: torch.dtype, device: torch.device, spread: bool = False
) -> tuple[Any, Collection[str]]:
    """The model of an auto class, and the names of the weights that its files lack."""
    options: dict[str, Any] = {"revision": source.identity["revision"], "trust_remote_code": source.trust_remote_code}
    if spread and device.type == "cuda" and _needs_several_gpus(source, dtype, device):
        options["device_map"] = "auto"
    elif device.type == "cuda":
        options["device_map"] = {"": device}
    with _one_line(f"--model {source.name}", "weights that transformers can load"):
        model, info = auto.from_pretrained(_place(source.name), dtype=dtype, output_loading_info=True, **options)
    return model, info["missing_keys"]


def _load_config_and_tokenizer(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ModelError(f"no folder {name}", "a local folder, a hub id or builtin:lab", "check the path")
    with _one_line(f"--model {name}", "a hub id, a local folder or builtin:lab"):
        config = AutoConfig.from_pretrained(_place(name), **options)
        tokenizer = AutoTokenizer.from_pretrained(_place(name), **options)
    return config, tokenizer


def _commit(name: str, revision: str | None) -> str:
    """The commit of a hub model whose configuration was just read; transformers 5 keeps it in no configuration."""
    from transformers.utils import cached_file, extract_commit_hash

    return str(extract_commit_hash(cached_file(name, "config.json", revision=revision), None))


def _skeleton(config: Any, trust_remote_code: bool) -> Any:
    from transformers import AutoModel

    with (
        _one_line(f"architecture {getattr(config, 'model_type', '?')}", "one that transformers has a base model for"),
        torch.device("meta"),
    ):
        return _encoder(AutoModel.from_config(config, trust_remote_code=trust_remote_code))


def _encoder(model: Any) -> Any:
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _needs_several_gpus(source: ModelSource, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the weights are too large for the GPU of this process.

    Raises:
        ModelError: they are, and other processes of this machine would spread theirs over the same GPUs.
    """
    if torch.cuda.device_count() < 2:
        return False
    need = sum(parameter.numel() for parameter in source.skeleton.parameters()) * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0]
    if need <= 0.9 * free:
        return False
    if (processes := processes_here()) > 1:
        raise ModelError(
            f"{source.name}, {need / 1e9:.1f} GB of weights, in {processes} processes on one machine",
            f"at most 0.9 of the {free / 1e9:.1f} GB that are free on {device}, since each would spread over all GPUs",
            "start one process a machine, which spreads the blocks over its GPUs, or name a smaller --dtype",
        )
    return True


@contextlib.contextmanager
def _one_line(given: str, expected: str) -> Iterator[None]:
    """Turn what transformers raises for a model it cannot load into one line."""
    try:
        yield
    except Exception as error:  # tokenizers and safetensors raise classes of their own for a damaged file
        reason = " ".join(str(error).split())
        remote = (
            "pass --trust-remote-code if you trust its authors"
            if "trust_remote_code" in reason
            else "check the name, the network, or `probe doctor`"
        )
        raise ModelError(f"{given} cannot be loaded ({reason[:300]})", expected, remote) from error


def _refuse_random_weights(name: str, model: Any, probed: Any, missing: Collection[str]) -> None:
    """A weight that the files lack would be random, and so would every number made with it. Poolers are not used.

    Args:
        model: what was loaded, with the names that `missing` speaks of.
        probed: the part of it that is probed: of an encoder-decoder, the encoder.
    """
    # By identity, not by name: an embedding that encoder and decoder share is known by a name outside the encoder.
    used = {id(tensor) for key, tensor in probed.state_dict(keep_vars=True).items() if "pooler" not in key}
    random = [key for key, tensor in model.state_dict(keep_vars=True).items() if key in missing and id(tensor) in used]
    if random:
        raise ModelError(
            f"{name} has no weights for {random[0]} and {len(random) - 1} more",
            "weights for every block",
            "check that the folder belongs to this architecture",
        )


def state_digest(model: Any) -> str:
    """sha256 of a small model's weights."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def text_config(model: Any) -> Any:
    """The configuration of the language model, inside a multimodal one too."""
    return model.config.get_text_config()


def find_blocks(model: Any) -> str:
    """The name of *the* module list whose length is the number of hidden layers.

    Lists inside another candidate (experts of a mixture) are not it; of several, the one of the language model is.

    Raises:
        ModelError: none or several fit.
    """
    depth = text_config(model).num_hidden_layers
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    names = [name for name in names if not any(name.startswith(other + ".") for other in names)]
    if len(names) > 1:
        names = [name for name in names if "language_model" in name or "text_model" in name] or names
    if len(names) != 1:
        raise ModelError(
            f"{len(names)} lists of {depth} blocks in {type(model).__name__}",
            "exactly one",
            "the architecture is not supported; open an issue with its name",
        )
    return names[0]


def refuse_leaky_blocks(model: Any) -> None:
    """A convolution over neighbouring tokens reads padding, so that a sentence's vector would depend on its batch.

    Raises:
        ModelError: blocks with a convolution that looks to both sides (ConvBERT's).
    """
    for name, module in model.get_submodule(find_blocks(model)).named_modules():
        if (
            isinstance(module, nn.Conv1d)
            and module.kernel_size[0] > 1
            and module.padding == (module.kernel_size[0] // 2,)
        ):
            raise ModelError(
                f"{type(model).__name__} convolves over tokens ({name})",
                "blocks that do not see padding",
                "this architecture is not supported",
            )


def context_length(model: Any, tokenizer: Any) -> int:
    """The longest sentence in tokens. Position tables that start after the padding index (RoBERTa's) lose those places."""
    limits = [
        int(limit)
        for limit in (getattr(text_config(model), "max_position_embeddings", None), tokenizer.model_max_length)
        if limit
    ]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(limits, default=2**31 - 1)


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of what decides a sentence's ids: the fast tokenizer's own serialisation; else its vocabulary and a sample of
    its work, which shows flags such as lower-casing."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state.pop("padding", None)
        state.pop("truncation", None)
    else:
        sample = tokenizer("An ÉTUDE in 12.5 parts: don't, Привет, 你好 !")["input_ids"]
        state = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab(), "sample": sample}
    state["special"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def folder_digest(folder: Path, patterns: Sequence[str]) -> str:
    """sha256 of the files that match, by name and content."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def tokenise(tokenizer: Any, sentences: Sequence[str], code: str, max_length: int | None = None) -> list[np.ndarray]:
    """Token ids of each sentence with the tokenizer's own special tokens, as int32 arrays; no padding.

    Translation models that mark the source language (NLLB, M2M-100) get the mark of `code` where they have one, else
    the one that the tokenizer was loaded with.

    Args:
        max_length: cut longer sentences here; None = never cut.
    """
    with _marking(tokenizer, code):
        encoded = tokenizer(
            list(sentences),
            add_special_tokens=True,
            padding=False,
            truncation=max_length is not None,
            max_length=max_length,
            verbose=False,
        )
    return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]


@contextlib.contextmanager
def _marking(tokenizer: Any, code: str) -> Iterator[None]:
    """The tokenizer's source language is `code` inside. It is put back, so that no language inherits another's mark."""
    mark = source_language(tokenizer, code) if hasattr(tokenizer, "src_lang") else None
    if mark is None:
        yield
        return
    before = tokenizer.src_lang
    tokenizer.src_lang = mark
    try:
        yield
    finally:
        tokenizer.src_lang = before


def source_language(tokenizer: Any, code: str) -> str | None:
    """The tokenizer's own name of a language (FLORES-200 code in NLLB, ISO 639-1 in M2M-100); None where it has none."""
    language = languages().get(code)
    vocabulary = tokenizer.get_vocab()
    marks = getattr(tokenizer, "lang_code_to_token", {})
    for name in (code, language.iso639_1 if language else None):
        if name is not None and (name in marks or (name == code and name in vocabulary)):
            return name
    return None


@contextlib.contextmanager
def shortened(loaded: LoadedModel, keep: int) -> Iterator[None]:
    """Run only the first `keep` blocks inside; the list is whole again afterwards, whatever happens."""
    parent_name, _, attribute = loaded.blocks_name.rpartition(".")
    parent, whole = loaded.model.get_submodule(parent_name), loaded.blocks
    setattr(parent, attribute, whole[:keep])
    try:
        yield
    finally:
        setattr(parent, attribute, whole)


def forward(loaded: LoadedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The base model's last hidden state (batch, token, hidden), after its final norm where it has one; no cache is built."""
    accepted = inspect.signature(loaded.model.forward).parameters
    options = {"use_cache": False} if "use_cache" in accepted else {}
    with fast_linears(loaded.model.get_input_embeddings().weight):
        output = loaded.model(input_ids=ids, attention_mask=mask.long(), **options)
    return output[0]


def described_model(architecture: Mapping[str, Any]) -> Any:
    """The base model of a described architecture on the meta device: its structure, without weights or a network."""
    from transformers import AutoConfig

    return _skeleton(AutoConfig.for_model(**architecture), trust_remote_code=False)

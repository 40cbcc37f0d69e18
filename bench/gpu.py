"""Extraction and retrieval on a GPU: a random-weight Llama-3-8B over 35 languages x 997 sentences, and its 33 layers.

    python bench/gpu.py [--blocks 32] [--languages 35] [--layers 3] [--folder DIR]

Prints tokens a second, the share of the measured bf16 matrix peak, peak memory, the time to store; then, for retrieval at
d = 4096 from the store, seconds reading, multiplying and selecting, with torch (float32 and TF32) and faiss-gpu where it is
installed. Without a GPU it says "not measured" and exits.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from data_manifests import language_sets
from probe.extract import AUTO_BATCH_TOKENS
from probe.knn import choose_backend, make_search
from probe.model import LoadedModel
from probe.states import pooled_states
from probe.store import SCHEMA, ActivationStore
from probe.tiny import tiny_tokenizer
from probe.vectors import unit_rows

ROWS = 997


def seconds(run: Callable[[], object], repeats: int = 1) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / repeats


def bf16_peak() -> float:
    """TFLOP/s of a large bf16 matrix product."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    seconds(lambda: a @ a, 10)
    return 2 * 8192**3 / seconds(lambda: a @ a, 50) / 1e12


def sentence_ids(vocabulary: int, seed: int) -> list[np.ndarray]:
    """Random ids with lengths like FLORES-200's under the Llama-3 tokenizer: median 45 tokens, a long tail."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(np.log(45), 0.45, ROWS), 8, 400).astype(int)
    return [generator.integers(0, vocabulary, n).astype(np.int32) for n in lengths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--languages", type=int, default=35)
    parser.add_argument("--layers", type=int, default=3, help="how many layers retrieval is timed on")
    parser.add_argument("--folder", type=Path, help="where the store goes (a temporary folder if not given)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: no GPU")
        return
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    codes = language_sets()["paper35"][: options.languages]
    try:
        store = extraction(options.blocks, codes, folder)
        retrieval(store, codes, options.layers)
    finally:
        shutil.rmtree(folder)


def extraction(blocks: int, codes: tuple[str, ...], folder: Path) -> ActivationStore:
    config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=blocks, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaModel(config).eval()
    torch.set_default_dtype(torch.float32)
    loaded, budget, peak = LoadedModel(model, tiny_tokenizer()), AUTO_BATCH_TOKENS["cuda"], bf16_peak()
    layers = tuple(range(blocks + 1))
    manifest = {
        "schema": SCHEMA, "model": {}, "corpus": {}, "languages": list(codes), "rows": ROWS, "poolings": ["mean"], "layers": list(layers),
        "hidden_size": 4096, "dtype": "bfloat16", "store_dtype": "float32", "final_norm": "model", "runtime": {}, "truncate": False, "text": False,
        "batch_tokens": budget, "depth": blocks, "files": {}, "complete": False,
    }  # fmt: skip
    store = ActivationStore.create(folder / "store", manifest)
    weights = sum(
        weight.numel() for block in model.layers for name, weight in block.named_parameters() if weight.ndim == 2
    )
    pooled_states(loaded, sentence_ids(config.vocab_size, 99)[:64], layers, ("mean",), budget)  # warm-up
    resident = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    running, writing, tokens = 0.0, 0.0, 0
    for seed, code in enumerate(codes):
        ids = sentence_ids(config.vocab_size, seed)
        box: list[np.ndarray] = []
        running += seconds(lambda ids=ids, box=box: box.append(pooled_states(loaded, ids, layers, ("mean",), budget)))
        lengths = np.array([len(row) for row in ids], dtype=np.int32)
        writing += seconds(
            lambda code=code, box=box, lengths=lengths: store.write_language(code, box[0], lengths, None, budget, 0)
        )
        tokens += int(lengths.sum())
    reached = 2 * weights * tokens / running / 1e12
    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}")
    print(
        f"extraction: {len(codes)} languages, {tokens} tokens, {blocks} blocks of width 4096, bf16, {budget} tokens a batch"
    )
    print(f"  {tokens / running:,.0f} tok/s; {reached:.0f} of {peak:.0f} TFLOP/s measured peak = {reached / peak:.0%}")
    print(
        f"  peak memory {(torch.cuda.max_memory_allocated() - resident) / 2**30:.2f} GiB above the {resident / 2**30:.1f} GiB of the model"
    )
    print(f"  store: {writing:.1f} s to write {store_gigabytes(store):.1f} GB, {running:.1f} s to compute")
    store.finish()
    return ActivationStore.open(store.path)


def store_gigabytes(store: ActivationStore) -> float:
    return sum(store.file(code).stat().st_size for code in store.languages) / 1e9


def retrieval(store: ActivationStore, codes: tuple[str, ...], count: int) -> None:
    device = torch.device("cuda")
    backends = ["torch"]
    try:
        backends.append(choose_backend("faiss", device))
    except Exception as error:
        print(f"faiss-gpu not measured: {error}")
    for layer in range(min(count, len(store.layers))):
        rows: list[np.ndarray] = []
        reading = seconds(
            lambda rows=rows, layer=layer: rows.extend(store.layer(code, layer, "mean") for code in codes)
        )
        begin = time.perf_counter()
        units = [unit_rows(values, code) for values, code in zip(rows, codes, strict=True)]
        normalising = time.perf_counter() - begin
        for backend in backends:
            for precision in ("highest", "high") if backend == "torch" else ("highest",):
                torch.set_float32_matmul_precision(precision)
                search = make_search(backend, device, len(codes), *units[0].shape)
                adding = seconds(lambda search=search, units=units: [search.add(unit) for unit in units])
                searching = seconds(lambda search=search: list(search.pairs(4)))
                stacked = torch.from_numpy(np.stack(units)).to(device)
                multiplying = seconds(
                    lambda stacked=stacked: [stacked[a] @ stacked[b].T for a in range(len(codes)) for b in range(a)]
                )
                label = {"highest": "float32", "high": "TF32"}[precision]
                print(
                    f"retrieval layer {layer}, {backend} {label}: reading {reading:.2f} s, normalising {normalising:.2f}, to the GPU {adding:.2f}, search {searching:.2f} (products alone {multiplying:.2f})"
                )
    torch.set_float32_matmul_precision("highest")


if __name__ == "__main__":
    main()

"""Writing and cold reading of the activation store, beside the same bytes as plain .npy files. Linux.

    python bench/store.py [--folder DIR] [--languages 12] [--rounds 3]

Cold: the kernel is told to forget the files before each read. A plain sequential read of the same bytes is the limit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from common import machine, spread

from data_manifests import languages
from probe.store import SCHEMA, ActivationStore

ROWS, DIM, LAYERS = 997, 4096, 5


def forget(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder if not given)")
    parser.add_argument("--languages", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    codes = list(languages())[: options.languages]
    states = np.random.default_rng(0).standard_normal((1, LAYERS, ROWS, DIM), dtype=np.float32)
    manifest = {
        "schema": SCHEMA, "model": {}, "corpus": {}, "languages": codes, "rows": ROWS, "poolings": ["mean"], "layers": list(range(LAYERS)),
        "depth": LAYERS - 1, "hidden_size": DIM, "dtype": "float32", "store_dtype": "float32", "final_norm": "model", "runtime": {}, "truncate": False, "text": False,
        "batch_tokens": 1, "files": {}, "complete": False,
    }  # fmt: skip
    gigabytes = states.nbytes * len(codes) / 1e9
    speeds: dict[str, list[float]] = {}

    def timed(name: str, run: object) -> None:
        begin = time.perf_counter()
        run()
        speeds.setdefault(name, []).append(gigabytes / (time.perf_counter() - begin))

    def write_store() -> None:
        store = ActivationStore.create(folder / "store", manifest, overwrite=True)
        for code in codes:
            store.write_language(code, states, np.ones(ROWS, dtype=np.int32), None, 1, 0)

    def read_store() -> None:
        store = ActivationStore.open(folder / "store")
        for layer in range(LAYERS):  # in the order of retrieval: a layer of every language, then the next
            for code in codes:
                store.layer(code, layer, "mean")

    def write_arrays() -> None:
        (folder / "npy").mkdir(exist_ok=True)
        for code in codes:
            with (folder / "npy" / f"{code}.npy").open("wb") as handle:
                np.save(handle, states)
                handle.flush()
                os.fsync(handle.fileno())

    def read_arrays() -> None:
        for code in codes:
            np.load(folder / "npy" / f"{code}.npy")

    def read_raw() -> None:
        buffer = bytearray(16 * 2**20)
        for code in codes:
            with (folder / "npy" / f"{code}.npy").open("rb", buffering=0) as handle:
                while handle.readinto(buffer):
                    pass

    try:
        for _ in range(options.rounds):
            timed("store, written (fsync included)", write_store)
            ActivationStore.reopen(folder / "store").finish()
            timed("npy, written (fsync included)", write_arrays)
            forget(folder / "store")
            timed("store, read cold", read_store)
            timed("store, read warm", read_store)
            forget(folder / "npy")
            timed("npy, read cold", read_arrays)
            forget(folder / "npy")
            timed("plain read of the same bytes, cold (the limit)", read_raw)
    finally:
        shutil.rmtree(folder)
    print(machine())
    print(
        f"{len(codes)} languages x {LAYERS} layers x {ROWS} x {DIM} float32 = {gigabytes:.1f} GB (min / median / max over {options.rounds} rounds)"
    )
    for name, values in speeds.items():
        print(f"  {name:48} {spread(values)} GB/s")


if __name__ == "__main__":
    main()

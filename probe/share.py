"""Which languages this process extracts: all of them, a rank's, an array task's, or a part named by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from probe.errors import ProbeError


def processes_here(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes torchrun started on this machine; where it is not told apart, how many in all."""
    count = environment.get("LOCAL_WORLD_SIZE", environment.get("WORLD_SIZE", "1"))
    return int(count) if count.isdigit() else 1


def refuse_several_processes(command: str) -> None:
    """For a command whose steps each need the whole of the step before.

    Raises:
        ProbeError: torchrun started more than one.
    """
    processes = Share.parse(None).parts
    if processes > 1:
        raise ProbeError(f"{command} in {processes} processes", "one", "start it without torchrun")


@dataclass(frozen=True)
class Share:
    """Which part of the languages this process extracts: part `index` of `parts`."""

    index: int = 0
    parts: int = 1

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] = os.environ) -> Share:
        """`i/N` (i from 0), `slurm` (an array task's place in its array), or None (torchrun's rank, else everything).

        Raises:
            ProbeError: malformed, or `slurm` outside an array or in one whose variables are missing.
        """
        if text is None:
            rank, size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
            if not (rank.isdigit() and size.isdigit() and int(rank) < int(size)):
                raise ProbeError(
                    f"RANK={rank} and WORLD_SIZE={size} in the environment",
                    "torchrun's, 0 <= RANK < WORLD_SIZE",
                    "unset both, or start with torchrun",
                )
            return cls(int(rank), int(size))
        if text == "slurm":
            names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")
            if missing := [name for name in names if name not in environment]:
                given = "outside a SLURM array" if len(missing) == len(names) else f"without {', '.join(missing)}"
                raise ProbeError(
                    f"--shard slurm {given}",
                    f"{', '.join(names)} in the environment",
                    "submit with sbatch --array, or give --shard i/N",
                )
            task, low, high = (int(environment[name]) for name in names)
            step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
            share = cls((task - low) // step, (high - low) // step + 1)
            if int(environment.get("SLURM_ARRAY_TASK_COUNT", share.parts)) != share.parts:
                raise ProbeError(
                    f"--shard slurm in an array of {environment['SLURM_ARRAY_TASK_COUNT']} tasks from {low} to {high}",
                    "an array without gaps, since every share needs a task",
                    "submit with --array=0-N, or give --shard i/N",
                )
            return share
        try:
            index, parts = (int(part) for part in text.split("/"))
        except ValueError:
            index, parts = 0, 0
        if not 0 <= index < parts:
            raise ProbeError(f"--shard {text}", "i/N with 0 <= i < N, or slurm", "give for example --shard 0/4")
        return cls(index, parts)

    def of(self, sizes: Mapping[str, int]) -> list[str]:
        """The languages of this share: largest first, each to the share with the least work so far."""
        loads, shares = [0] * self.parts, [[] for _ in range(self.parts)]  # type: list[int], list[list[str]]
        for code in sorted(sizes, key=lambda code: (-sizes[code], code)):
            least = loads.index(min(loads))
            loads[least] += sizes[code]
            shares[least].append(code)
        return shares[self.index]

"""Which layers are meant, as users write it."""

from __future__ import annotations

from collections.abc import Sequence

from probe.errors import ProbeError


def places(depth: int) -> dict[str, int]:
    """`bottom`, `middle` and `top`: a quarter, a half and all of the blocks (8, 16 and 32 of 32, as in the paper)."""
    return {"bottom": max(1, depth // 4), "middle": max(1, depth // 2), "top": depth}


def parse_layers(text: str, available: Sequence[int]) -> tuple[int, ...]:
    """Layers by `all`, `even`, a list `0,8,16`, or a range `start:stop:step` whose stop is included.

    Raises:
        ProbeError: malformed, or a layer that is not available.
    """
    if text == "all":
        return tuple(available)
    try:
        if text == "even":
            layers = tuple(layer for layer in available if layer % 2 == 0)
        elif ":" in text:
            parts = [int(part) if part else None for part in text.split(":")]
            start, stop, step = parts if len(parts) == 3 else (*parts, None)
            if step is not None and step < 1:
                raise ValueError
            last = available[-1] if stop is None else stop
            layers = tuple(range(available[0] if start is None else start, last + 1, step or 1))
        else:
            layers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ProbeError(
            f"--layers {text}", "all, even, a list such as 0,8,16, or start:stop:step", "give one of these"
        ) from None
    outside = [layer for layer in layers if layer not in available]
    if outside or not layers:
        raise ProbeError(
            f"--layers {text}: layer {outside[0] if outside else '(none)'} is not there",
            f"layers {available[0]} to {available[-1]}",
            "give layers in that range",
        )
    return layers

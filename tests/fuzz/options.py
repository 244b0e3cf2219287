"""Random settings of every mode, as the options that `convert` takes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_KEEP = st.sampled_from(((), (), (), (), (), "stem", "head", "*.0", ("*part1*", "*parts.1*")))
_WHOLE = st.sampled_from((2, 2, 3, 4, 1, 8))
_ODD = st.sampled_from((3, 1, 5, 7))

C_GHOST: dict[str, st.SearchStrategy[Any]] = {
    "s": _WHOLE | st.dictionaries(st.sampled_from(("*", "stem")), _WHOLE, min_size=1),
    "d": _ODD | st.dictionaries(st.sampled_from(("*", "head")), _ODD, min_size=1),
    "linear": st.booleans(),
    "costlier": st.booleans(),
    "divisor": st.sampled_from((1, 1, 4, 8)),
    "bias_mode": st.sampled_from(("full", "primary")),
    "init": st.sampled_from(("projection", "random")),
    "seed": st.integers(0, 5),
}
G_GHOST: dict[str, st.SearchStrategy[Any]] = {
    "ratio": st.sampled_from((0.5, 0.25, 0.4, 0.7, 0.05, 0.95, {"*": 0.4})),
    "min_blocks": st.sampled_from((3, 4)),
    "entry": st.sampled_from(("slice", "project")),
    "tail": st.sampled_from(("full", "thin")),
    "cheap": st.sampled_from((1, 3, 5, "identity", "none")),
    "mix": st.sampled_from(("fc", "mlp", "none")),
    "mix_from": st.sampled_from(("all", "thin")),
    "ghost_act": st.booleans(),
    "group_width": st.sampled_from((1.0, 0.75, 0.5, 2.0)),
    "divisor": st.sampled_from((1, 2, 4)),
}
MODES = {"c-ghost": C_GHOST, "g-ghost": G_GHOST, "cg-ghost": {**G_GHOST, **C_GHOST}}


def options(modes: tuple[str, ...] = tuple(MODES)) -> st.SearchStrategy[dict[str, Any]]:
    """A mode and some of its settings."""

    def of(mode: str) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(
            {"mode": st.just(mode)}, optional={**MODES[mode], "keep": _KEEP}
        )

    return st.sampled_from(modes).flatmap(of)

"""The best choice within several budgets at once, some of whose parts exclude each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ghostify.errors import SettingsError
from ghostify.plans import Replacement, StageRebuild

SECONDS = 30.0
"""Most time for one choice; what is best by then is taken."""


TOLERANCE = 1e-6
"""By which a constraint of the solver may be missed, in parts of the largest number in it."""


@dataclass(frozen=True)
class Form:
    """What a layer or stage may become.

    Attributes:
        part: Name of the layer or stage.
        value: The s, or the ratio.
        takes: Names of all layers and stages that it is made of: no two forms may take one.
        saves: What that saves of each budget's cost, in any units; negative where it costs more.
        loss: What it does to the network's output.
        item: What a plan has for it.
    """

    part: str
    value: float
    takes: frozenset[str]
    saves: Mapping[str, float] = field(hash=False)
    loss: float = 0.0
    item: Replacement | StageRebuild | None = field(default=None, compare=False, repr=False)


def choose_forms(forms: Sequence[Form], needs: Mapping[str, float]) -> tuple[Form, ...] | None:
    """The forms of least total loss that save enough of every budget's cost; None if none do.

    An integer linear program, solved by HiGHS.

    Args:
        forms: What there is to choose from; what is not chosen stays as it is.
        needs: What must be saved of each cost, in the units of `Form.saves`.

    Example:
        >>> one = Form("a", 2, frozenset("a"), {"time": 5.0}, loss=3.0)
        >>> other = Form("b", 2, frozenset("b"), {"time": 5.0}, loss=1.0)
        >>> [form.part for form in choose_forms([one, other], {"time": 4.0})]
        ['b']
    """
    asked = dict(needs)
    if not forms:
        return () if all(need <= 0 for need in asked.values()) else None
    for _ in range(4):
        chosen = _solve(forms, needs)
        if chosen is None:
            return None
        short = {
            name: need - sum(form.saves[name] for form in chosen) for name, need in asked.items()
        }
        if all(gap <= 0 for gap in short.values()):
            return chosen
        # The solver is exact but for its tolerance, and a budget is to be kept to the last MAC.
        needs = {
            name: need + (2 * TOLERANCE * _largest(forms, name) if short[name] > 0 else 0)
            for name, need in needs.items()
        }
    return None


def _largest(forms: Sequence[Form], name: str) -> float:
    return max(*(abs(form.saves[name]) for form in forms), 1e-30)


def _solve(forms: Sequence[Form], needs: Mapping[str, float]) -> tuple[Form, ...] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp

    losses = np.array([form.loss for form in forms])
    taken = sorted({name for form in forms for name in form.takes})
    rows = [[float(name in form.takes) for form in forms] for name in taken]
    constraints = [LinearConstraint(np.array(rows), -np.inf, 1.0)]
    for name, need in needs.items():
        saves = np.array([form.saves[name] for form in forms])
        scale = _largest(forms, name)
        constraints.append(LinearConstraint(saves[None] / scale, need / scale, np.inf))
    found = milp(
        losses / max(float(np.abs(losses).max()), 1e-30),
        integrality=np.ones(len(forms)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": SECONDS, "mip_rel_gap": 1e-6},
    )
    if found.x is None:
        return None
    return tuple(form for form, value in zip(forms, found.x, strict=True) if value > 0.5)


def most_saved(forms: Sequence[Form], name: str, needs: Mapping[str, float]) -> tuple[Form, ...]:
    """The forms that save most of one cost, what must be saved of others being saved; or none."""
    asked = [
        Form(form.part, form.value, form.takes, form.saves, -form.saves[name], form.item)
        for form in forms
        if form.saves[name] > 0 or any(form.saves[other] > 0 for other in needs)
    ]
    return choose_forms(asked, needs) or ()


def check_reachable(
    forms: Sequence[Form], totals: Mapping[str, float], targets: Mapping[str, float]
) -> None:
    """Raise unless some choice leaves at most these parts of the costs.

    Args:
        forms: What there is to choose from.
        totals: Each cost of the network as it is.
        targets: Part of each to leave at most.

    Raises:
        SettingsError: None does; it says how far each gets alone.
    """
    if not forms:
        raise SettingsError(
            f"{_asked(targets)} can't be reached: there is no layer or stage that would save any; "
            "leave that, and the report says why each is left."
        )
    needs = {name: (1 - part) * totals[name] for name, part in targets.items()}
    if choose_forms([_without_loss(form) for form in forms], needs) is not None:
        return
    least = []
    for name in targets:
        saved = sum(form.saves[name] for form in most_saved(forms, name, {}))
        least.append(f"{np.ceil(1000 * (1 - saved / totals[name])) / 1000:g} of the {WORDS[name]}")
    together = " together" if len(targets) > 1 else ""
    alone = "alone, the least is" if len(targets) > 1 else "the least is"
    raise SettingsError(
        f"{_asked(targets)} can't be reached{together}: {alone} {' and '.join(least)}; give more "
        "than that."
    )


def _asked(targets: Mapping[str, float]) -> str:
    return " and ".join(f"target_{name}={part:g}" for name, part in targets.items())


WORDS = {"macs": "MACs", "params": "parameters"}


def _without_loss(form: Form) -> Form:
    return Form(form.part, form.value, form.takes, form.saves)

"""The page that tells of the zoo, made of the records of its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from tables import Table

CNN_SHARE = 0.25
"""A network of timm counts as a CNN if at least this share of its layers are Conv2d."""
RUN = 3
"""Blocks of one shape that make a stage."""

Record = dict[str, Any]
Networks = dict[str, dict[str, Record]]
"""For each network its records, by trial."""

TITLES = {"c-ghost": "C-Ghost", "g-ghost": "G-Ghost", "torch-pruning": "Torch-Pruning, 50 %"}
REASON_WIDTH = 160

INTRO = """\
# Every CNN of torchvision and timm

All classification and segmentation models of torchvision, and of each of timm's files the model
with the shortest (then alphabetically first) name, each with random weights in three ways:
`mode="c-ghost"` and `mode="g-ghost"` with their defaults, and Torch-Pruning (magnitude of groups,
half of all channels, the output layer left out) beside them. {machine}.

    pip install -e '.[bench]'
    python benchmarks/zoo.py --write docs/zoo.md

- **CNN**: at least {share:.0%} of the network's convolutions and linear layers are Conv2d, counted
  in the network itself. timm's others are left out ({others} files); torchvision's are all tried.
- **Converted**: something was replaced (or pruned), and the result in training mode gives tensors
  of the original's shapes, all finite, and finite gradients, on a batch of 2 images. The images are
  64 x 64, or the smallest that the network takes (Torch-Pruning traces on one of them).
- **Left**: nothing could be replaced, the network came back as it was. **Fails**: all the rest, an
  error, another shape, or {timeout}.
- **x params, x MACs**: how many times fewer (at the network's own image size; Torch-Pruning aims at
  a quarter, ghostify's defaults at half, so its larger figures are no merit of either).
- **s**: CPU seconds of the conversion on one thread; **MB**: how far resident memory rises in it.
- ghostify converts on shapes without data; Torch-Pruning runs the network on one image, which is
  why it gets a small one.
- Each network is built in a process of its own, each trial is a fork of that.
"""


def render(
    records: Iterable[Record],
    names: Sequence[str],
    machine: str,
    regnet: Sequence[str],
    note: str = "",
) -> str:
    """The page.

    Args:
        records: What was noted.
        names: All networks that should be there.
        machine: What it was run on.
        regnet: Lines about the time that RegNetX-3.2GF takes.
        note: What a reader must know of this run.
    """
    all_records = list(records)
    networks: Networks = {name: {} for name in names}
    for record in all_records:
        networks.setdefault(record["model"], {})[record["mode"]] = record
    tried = {n: trials for n, trials in networks.items() if "original" in trials}
    works = {n: trials for n, trials in tried.items() if trials["original"].get("works")}
    others = [n for n in networks if _status(networks[n].get("build")) == "no CNN"]
    parts = [
        INTRO.format(
            machine=machine,
            share=CNN_SHARE,
            others=len(others),
            timeout="no end within the limit that the reason names",
        ),
        note,
        "## In short\n",
        _summary(works).to_markdown(),
        *_c_ghost(works),
        *_g_ghost(works),
        *_torch_pruning(works),
        "## RegNetX-3.2GF\n\n" + "\n".join(regnet) + "\n",
        *_not_tried(networks, tried, works),
        "## Network by network\n",
        _listing(works).to_markdown(),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


# The summary


def _summary(works: Networks) -> Table:
    rows = []
    for family, members in _families(works).items():
        for mode, title in TITLES.items():
            trials = [t[mode] for t in members.values() if mode in t]
            done = [t for t in trials if t["status"] == "converted"]
            counts = Counter(t["status"] for t in trials)
            rows.append(
                (
                    f"{family}, {title}",
                    f"{counts['converted']} of {len(trials)}",
                    str(counts["left"]),
                    str(len(trials) - counts["converted"] - counts["left"]),
                    _typical(done, lambda t: t["ratios"][0], "x{:.2f}"),
                    _typical(done, lambda t: t["ratios"][1], "x{:.2f}"),
                    _typical(done, lambda t: t["seconds"], "{:.2f}"),
                    _typical(done, lambda t: t["peak_mb"], "{:.0f}"),
                )
            )
    header = ("networks", "converted", "left", "fails", "params", "MACs", "s", "MB")
    note = "Medians over what was converted. All networks that train as they are."
    return Table("Counts", header, tuple(rows), note)


def _families(networks: Networks) -> dict[str, Networks]:
    found: dict[str, Networks] = {"torchvision": {}, "timm": {}}
    for name, trials in networks.items():
        found["timm" if name.startswith("timm/") else "torchvision"][name] = trials
    return found


def _typical(trials: list[Record], value: Callable[[Record], Any], shown: str) -> str:
    values = [v for v in map(value, trials) if v is not None]
    return shown.format(median(values)) if values else "-"


# What each mode did


def _c_ghost(works: Networks) -> list[str]:
    lines = ["### What C-Ghost does not convert\n"]
    for name, trials in works.items():
        trial = trials.get("c-ghost")
        if trial and trial["status"] != "converted":
            lines.append(f"- `{name}`: {_why(trial)}")
    return ["\n".join(lines if len(lines) > 1 else [*lines, "Nothing: all are converted."])]


def _g_ghost(works: Networks) -> list[str]:
    tried = {
        n: t for n, t in works.items() if "g-ghost" in t and t["original"]["share"] >= CNN_SHARE
    }
    long = {n: t for n, t in tried.items() if t["original"]["run"] >= RUN}
    done = [n for n, t in long.items() if t["g-ghost"]["status"] == "converted"]
    more = [n for n, t in tried.items() if n not in long and _is_converted(t, "g-ghost")]
    lines = [
        "### What G-Ghost rebuilds\n",
        f"{len(long)} of {len(tried)} CNNs have a run of {RUN} or more blocks of one shape: "
        "modules of one class beside each other, each with two layers or more, each fed with the "
        "one tensor that the one before gave, found by hooks in a forward pass and not by "
        f"ghostify's search. **In {len(done)} of the {len(long)} at least one stage is rebuilt**, "
        f"and in {len(more)} of the other {len(tried) - len(long)}, whose stages are of other "
        "forms (blocks of several classes, plain layers, several modules to a block).\n",
        f"With such a run, but nothing rebuilt ({len(long) - len(done)}):\n",
        *[f"- `{n}`, {t['original']['run']} blocks: {_why(t['g-ghost'])}"
          for n, t in long.items() if n not in done],
        f"\nWithout such a run, and nothing rebuilt ({len(tried) - len(long) - len(more)}):\n",
        *[f"- `{n}`, {t['original']['run']}: {_why(t['g-ghost'])}"
          for n, t in tried.items() if n not in long and n not in more],
    ]  # fmt: skip
    return ["\n".join(lines)]


def _torch_pruning(works: Networks) -> list[str]:
    tried = {n: t for n, t in works.items() if set(TITLES) <= set(t)}
    alone = [
        n
        for n, t in tried.items()
        if _is_converted(t, "torch-pruning") and not _is_converted(t, "c-ghost")
    ]
    unlike = [
        n
        for n, t in tried.items()
        if _is_converted(t, "torch-pruning") and not _is_converted(t, "g-ghost")
    ]
    both = {n: t for n, t in tried.items() if all(_is_converted(t, m) for m in TITLES)}
    lines = ["### Beside Torch-Pruning\n"]
    if len(tried) < len(works):
        lines.append(f"- {len(works) - len(tried)} networks lack a trial of it in this run.")
    for mode in ("c-ghost", "g-ghost"):
        faster = sum(t["torch-pruning"]["seconds"] < t[mode]["seconds"] for t in both.values())
        lines.append(
            f"- Of the {len(both)} networks that all three convert, Torch-Pruning is faster than "
            f"{TITLES[mode]} in {faster}."
        )
    smaller = sum(t["torch-pruning"]["peak_mb"] < t["c-ghost"]["peak_mb"] for t in both.values())
    lines += [
        f"- It takes less memory than C-Ghost in {smaller} of them (it prunes in place; ghostify "
        "makes a copy and leaves the original as it was).",
        "- It saves more in nearly every network: at half of the channels a layer has a quarter of "
        "its weights. What that does to accuracy is not measured here.",
        f"- It converts {len(alone)} that C-Ghost does not: {_list(alone)}.",
        f"- It prunes {len(unlike)} networks in which G-Ghost finds nothing to rebuild.",
        "- It fails on, or leaves as they are:\n",
        *[f"    - `{n}`: {_why(t['torch-pruning'])}"
          for n, t in tried.items() if not _is_converted(t, "torch-pruning")],
    ]  # fmt: skip
    return ["\n".join(lines)]


def _is_converted(trials: dict[str, Record], mode: str) -> bool:
    return _status(trials.get(mode)) == "converted"


def _status(record: Record | None) -> str | None:
    return record.get("status") if record else None


def _why(record: Record) -> str:
    """What a record says of why nothing came of it."""
    # That there are few blocks says the least.
    told = sorted(record.get("left", []), key=lambda item: "fewer than" in item[1])
    reasons = [f"{name}: {reason}" for name, reason in told]
    stopped = [f"tracing stops in {where}" for where in record.get("untraced", [])[:1]]
    if record["status"] == "left":
        shown = "; ".join([*stopped, *reasons[:1]]) or "nothing that looks like a stage"
        more = len(reasons) - 1
        return _short(shown) + (f" (and {more} more)" if more > 0 else "")
    return f"{record['status']}: {_short(record.get('reason') or 'no reason noted')}"


def _short(text: str) -> str:
    text = text.replace("|", "/").replace("\n", " ")
    return text if len(text) <= REASON_WIDTH else f"{text[:REASON_WIDTH]}..."


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


# The rest


def _not_tried(networks: Networks, tried: Networks, works: Networks) -> list[str]:
    lines = ["## What is not in these counts\n"]
    for name, trials in networks.items():
        build = trials.get("build")
        if build is not None and build["status"] != "no CNN":
            lines.append(f"- `{name}`: {build['status']}, {_short(build['reason'])}")
        elif not trials:
            lines.append(f"- `{name}`: not run yet")
    for name in tried:
        if name not in works:
            lines.append(f"- `{name}` itself: {_short(tried[name]['original']['reason'])}")
    names = [n for n, t in networks.items() if _status(t.get("build")) == "no CNN"]
    lines.append(f"- no CNNs: {_list(names)}")
    return ["\n".join(lines)]


def _listing(works: Networks) -> Table:
    rows = []
    for name, trials in works.items():
        original = trials["original"]
        row = [f"`{name}`", f"{original['share']:.0%}", str(original["run"]), f"{original['px']}"]
        row += [_cell(trials.get("c-ghost")), _cell(trials.get("g-ghost"))]
        rows.append((*row, _cell(trials.get("torch-pruning"))))
    header = ("network", "Conv2d", "run", "px", *TITLES.values())
    note = (
        "Conv2d: their share of the layers. run: blocks of the longest run (above). px: image size "
        "of the step of training. Then: stages rebuilt (G-Ghost), x params, x MACs, s, MB."
    )
    return Table("All", header, tuple(rows), note)


def _cell(record: Record | None) -> str:
    if record is None:
        return "not run"
    if record["status"] != "converted":
        return str(record["status"])
    params, macs = record["ratios"]
    ratio = "?" if macs is None else f"x{macs:.2f}"
    count = record.get("stages")
    stages = f"{count} stage{'s' if count > 1 else ''}, " if count else ""
    return f"{stages}x{params:.2f}, {ratio}, {record['seconds']:.2f} s, {record['peak_mb']:.0f} MB"

"""The measured times of layers in each of their forms, in a file that can be carried along."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from ghostify.errors import GhostifyError, SettingsError, shown
from ghostify.files import cache_folder, kind_of, make_folder, read_text, write_text
from ghostify.files.plain_data import UnreadableError, read_json
from ghostify.plans import Conditions
from ghostify.settings.base import check_number

SCHEMA = "ghostify.latency/1"

LEFT = "left"
"""The form of a layer that stays as it is."""

Forms = Mapping[str, float]
"""Milliseconds of a layer by form: `LEFT`, or how its ghosts are made (``"s=2, d=3"``)."""


@dataclass(frozen=True)
class LatencyTable:
    """The measured times of layers in each of their forms.

    Attributes:
        conditions: What they hold for.
        times: For each layer's signature the milliseconds of each form.
        networks: Milliseconds of whole networks as they are, by their signature.
    """

    conditions: Conditions
    times: Mapping[str, Forms] = field(default_factory=dict)
    networks: Mapping[str, float] = field(default_factory=dict)

    def with_times(self, times: Mapping[str, Forms]) -> LatencyTable:
        """The table with more times in it.

        Forms of a layer were measured beside `LEFT`, and stay so many times of that: a machine that
        is busier today favours none.
        """
        merged = {name: dict(forms) for name, forms in self.times.items()}
        for name, forms in times.items():
            own = merged.setdefault(name, {})
            part = own.get(LEFT, forms[LEFT]) / forms[LEFT]
            own.update({form: part * milliseconds for form, milliseconds in forms.items()})
        return replace(self, times=merged)

    def with_network(self, signature: str, milliseconds: float) -> LatencyTable:
        """The table with the time of a whole network in it."""
        return replace(self, networks={**self.networks, signature: milliseconds})

    def to_json(self) -> str:
        """The text of its file, described in ``docs/deploy.md``."""
        data = {
            "schema": SCHEMA,
            **dataclasses.asdict(self.conditions),
            "times": {name: dict(forms) for name, forms in sorted(self.times.items())},
            "networks": dict(sorted(self.networks.items())),
        }
        return json.dumps(data, indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write its file, whole or not at all.

        Raises:
            GhostifyError: It can't be written there.
        """
        write_text(path, self.to_json())

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """A table from the text of its file.

        Raises:
            GhostifyError: It is none.
        """
        try:
            data = read_json(text)
        except UnreadableError as error:
            raise _no_table(str(error)) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise _no_table(f"it does not say schema: {SCHEMA}")
        names = [item.name for item in dataclasses.fields(Conditions)]
        conditions = Conditions.from_dict({n: data[n] for n in names if n in data})
        times, networks = data.get("times"), data.get("networks", {})
        if not isinstance(times, dict) or not all(isinstance(f, dict) for f in times.values()):
            raise _no_table(f"times is {shown(times)}")
        for forms in (*times.values(), networks):
            _check_milliseconds(forms)
        return cls(conditions, times, networks)

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """A table from its file.

        Raises:
            SettingsError: It can't be read, or is none.
        """
        try:
            return cls.from_json(read_text(path, "give a file that ghostify wrote"))
        except GhostifyError as error:
            raise SettingsError(f"latency_table={path}: {error}") from error


def find_table(asked: Conditions, path: Path | None) -> LatencyTable:
    """The table that is there for some conditions; an empty one where none is.

    Args:
        asked: What it must hold for. A file that was named may be of another version, processor
            and memory format: it is what steers then.
        path: The file; None for the user's cache.

    Raises:
        SettingsError: The file that was named can't be read, or is for something else.
    """
    if path is None:
        with suppress(GhostifyError):  # a cache that can't be read is made anew
            found = LatencyTable.read(cached_at(asked))
            if found.conditions == asked:
                return found
        return LatencyTable(asked)
    if kind_of(path, SettingsError) == "nothing":
        return LatencyTable(asked)
    found = LatencyTable.read(path)
    for name in ("runtime", "device", "threads", "batch", "dtype"):
        theirs, own = getattr(found.conditions, name), getattr(asked, name)
        if theirs != own:
            raise SettingsError(
                f"latency_table={path} holds times for {name}={theirs}, not {own}: "
                "give that, or another file."
            )
    return found


def keep_table(table: LatencyTable, path: Path | None) -> None:
    """Write a table to the file that was named, or into the user's cache, where that is writable.

    Raises:
        GhostifyError: The file that was named can't be written.
    """
    if path is not None:
        table.write(path)
        return
    with suppress(GhostifyError):  # without a cache all is measured again, and that is all
        place = cached_at(table.conditions)
        make_folder(place.parent)
        table.write(place)


def cached_at(conditions: Conditions) -> Path:
    """The file of the user's cache for some conditions."""
    text = json.dumps(dataclasses.asdict(conditions), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return cache_folder() / "latency" / f"{conditions.runtime}-{digest}.json"


def _check_milliseconds(forms: Any) -> None:
    if not isinstance(forms, dict):
        raise _no_table(f"networks is {shown(forms)}")
    for form, milliseconds in forms.items():
        check_number(str(form), milliseconds, 0, inf)


def _no_table(reason: str) -> GhostifyError:
    return GhostifyError(f"it is no latency table ({reason}): give a file that ghostify wrote.")

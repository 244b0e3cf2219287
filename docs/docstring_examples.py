"""For the site: "Example:" sections of docstrings are shown as code, like "Examples:"."""

from __future__ import annotations

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Names the section as mkdocstrings knows it."""

    def on_object(self, *, obj: griffe.Object, **keywords: Any) -> None:
        """Look at one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")

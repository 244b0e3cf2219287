"""Doctests of modules whose extras are not installed are not collected."""

from importlib.util import find_spec

collect_ignore = [
    f"ghostify/trainers/{extra}.py"
    for extra in ("lightning", "transformers")
    if find_spec(extra) is None
]

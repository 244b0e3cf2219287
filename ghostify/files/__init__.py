"""Reading and writing files: every fault in a sentence, nothing written half."""

from ghostify.files.access import (
    check_folder,
    check_writable,
    explained,
    find_files,
    kind_of,
    list_folder,
    make_folder,
    read_image,
    read_text,
    reading,
    reason_of,
    write_text,
    writing,
)
from ghostify.files.caches import cache_folder

__all__ = [
    "cache_folder",
    "check_folder",
    "check_writable",
    "explained",
    "find_files",
    "list_folder",
    "kind_of",
    "make_folder",
    "read_image",
    "read_text",
    "reading",
    "reason_of",
    "write_text",
    "writing",
]

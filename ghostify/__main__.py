"""``python -m ghostify``: the command, where it is not on the path (under torchrun, say)."""

from ghostify.cli import main

if __name__ == "__main__":
    main()

"""``python -m bodyloop`` is the command ``bodyloop``."""

from __future__ import annotations

from bodyloop.cli import main

if __name__ == "__main__":
    main()

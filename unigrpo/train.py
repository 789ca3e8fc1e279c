"""``python -m unigrpo.train``; nobody imports this: :func:`unigrpo.train` is the function."""

import sys

from unigrpo.training.command import main

if __name__ == "__main__":
    sys.exit(main())

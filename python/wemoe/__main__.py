"""``python -m wemoe`` is the ``wemoe`` command."""

from wemoe.cli import main

if __name__ == "__main__":
    main()

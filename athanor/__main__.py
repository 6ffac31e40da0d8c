"""``python -m athanor`` is the ``athanor`` command."""

from athanor.cli import main

main()

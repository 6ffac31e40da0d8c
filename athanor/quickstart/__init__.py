"""One command from raw text to a chat model: the main job of the house, small enough for two CPU cores."""

from athanor.quickstart.run import run_quickstart

__all__ = ["run_quickstart"]

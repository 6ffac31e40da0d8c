"""Lets the tests here, and the processes they start, import the tiny run of this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

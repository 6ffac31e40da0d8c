"""Reading files of every format: where they are, their bytes, their rows, their text."""

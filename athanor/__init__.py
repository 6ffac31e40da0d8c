"""Athanor: from raw documents to an aligned, evaluated, served language model."""

__version__ = "0.1.0"

"""Vocabulary: train, save, load, apply."""

from athanor.tokenizer.chat import CHAT_TEMPLATE, ROLES, SPECIALS, Message
from athanor.tokenizer.pattern import PATTERN
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import train_tokenizer

__all__ = ["CHAT_TEMPLATE", "PATTERN", "ROLES", "SPECIALS", "Message", "Tokenizer", "train_tokenizer"]

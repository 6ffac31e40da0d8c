"""Vocabulary: train, save, load, apply."""

from athanor.tokenizer.chat import CHAT_TEMPLATE, ROLES, SPECIALS, Message
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import PATTERN, train_tokenizer

__all__ = ["CHAT_TEMPLATE", "PATTERN", "ROLES", "SPECIALS", "Message", "Tokenizer", "train_tokenizer"]

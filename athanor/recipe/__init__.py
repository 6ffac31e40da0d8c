"""The recipe language: typed, strict, one YAML file for a whole life of a model."""

from athanor.recipe.loading import dump, json_schema, load, load_text, settings
from athanor.recipe.presets import PRESETS, PUBLISHED_PARAMS, Published
from athanor.recipe.schema import Recipe

__all__ = ["PRESETS", "PUBLISHED_PARAMS", "Published", "Recipe", "dump", "json_schema", "load", "load_text", "settings"]

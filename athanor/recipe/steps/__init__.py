"""Options of the curation steps: plain typed values, so that a recipe is checked before anything is read."""

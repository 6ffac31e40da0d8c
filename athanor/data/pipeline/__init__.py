"""The curation pipeline: documents read once into parts, steps worked over parts by any number of processes."""

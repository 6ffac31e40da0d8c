"""Perplexity of documents under an Athanor proxy model, read to a budget of tokens each.

``bits_per_byte`` is the measure to compare texts by: it does not depend on how many bytes a token holds. Logits are in
float32. Documents are batched by length, padded on the right behind the text, which causal attention never sees: a
document's figure depends on its batch by rounding alone, and is kept to three digits so that this does not show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.quality_train import file_digest
from athanor.errors import AthanorError
from athanor.recipe.steps.quality import PerplexityOptions

_DIGITS = 3


class Perplexity(Step):
    """Nats a token, tokens read, bits a byte; ``quantile`` of the latter among documents of the same language."""

    name = "perplexity"
    fields = {"nats_per_token": pa.float32(), "tokens": pa.int32(), "bits_per_byte": pa.float32()}
    resolved = {"quantile": pa.float32()}

    def __init__(self, options: PerplexityOptions) -> None:
        super().__init__(options)
        self._speaker: Any = None

    def compute_key(self) -> Any:
        """The model's files and how much is read."""
        from pathlib import Path

        folder = Path(self.options.model)
        files = sorted(
            p for p in folder.glob("*") if p.suffix == ".safetensors" or p.name in ("config.json", "tokenizer.json")
        )
        if not files:
            raise AthanorError(
                "no model directory", where=f"perplexity: model: {folder}", fix="a directory of a trained model"
            )
        return [*(f"{path.name} {file_digest(path)}" for path in files), self.options.max_tokens]

    def prepare(self) -> None:
        """Load the proxy model."""
        if self._speaker is None:
            from athanor.inference.session import Speaker

            self._speaker = Speaker.open(self.options.model, device=self.options.device)

    def annotate(self, docs: Docs) -> Columns:
        """Mean cost of each document's tokens (the first is predicted from the end of a text); nan for empty ones."""
        self.prepare()
        nats, tokens, n_bytes = document_costs(
            self._speaker, docs.texts, self.options.max_tokens, self.options.batch_tokens
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            bits = nats / np.log(2) / n_bytes
            mean = nats / tokens
        return {
            "nats_per_token": np.round(mean, _DIGITS).astype(np.float32),
            "tokens": np.nan_to_num(tokens).astype(np.int32),
            "bits_per_byte": np.round(bits, _DIGITS).astype(np.float32),
        }

    def resolve(self, survey: Survey) -> Columns:
        """Share of the language's documents with fewer bits a byte, ties half."""
        from scipy.stats import rankdata

        bits = survey.numpy("bits_per_byte")
        languages = survey.column("language").to_pylist() if "language" in survey.names else [""] * len(bits)
        names = np.array([name or "" for name in languages])
        out = np.full(len(bits), np.nan, dtype=np.float32)
        for name in set(names.tolist()):
            mine = (names == name) & ~np.isnan(bits)
            if mine.any():
                out[mine] = (rankdata(bits[mine]) - 0.5) / mine.sum()
        return {"quantile": out}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Drops beyond the thresholds that are set; what has no measure stays."""
        o: PerplexityOptions = self.options
        reasons: list[str | None] = [None] * len(docs)
        for name, low, high in (
            ("bits_per_byte", o.min_bits_per_byte, o.max_bits_per_byte),
            ("quantile", o.min_quantile, o.max_quantile),
        ):
            values = np.asarray(columns[name])
            for i in np.flatnonzero(values > (np.inf if high is None else high)):
                reasons[i] = reasons[i] or f"high perplexity: {name} {values[i]:.3f}"
            for i in np.flatnonzero(values < (-np.inf if low is None else low)):
                reasons[i] = reasons[i] or f"low perplexity: {name} {values[i]:.3f}"
        return Verdict(reasons)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """Quantiles of bits a byte by language."""
        bits = survey.numpy("bits_per_byte")
        languages = np.array(survey.column("language").to_pylist() if "language" in survey.names else [""] * len(bits))
        table = {}
        for name in sorted(set(languages.tolist())):
            mine = bits[(languages == name) & ~np.isnan(bits)]
            if len(mine):
                table[name] = {str(q): round(float(np.quantile(mine, q)), 3) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
        return {"bits_per_byte": table}


Doubles = npt.NDArray[np.float64]


def document_costs(
    speaker: Any, texts: list[str], max_tokens: int, batch_tokens: int
) -> tuple[Doubles, Doubles, Doubles]:
    """(nats, tokens, UTF-8 bytes) of the part of each text that ``max_tokens`` tokens cover [texts]."""
    import torch

    tokenizer, model = speaker.tokenizer, speaker.model
    limit = min(max_tokens, model.config.max_position_embeddings)
    rows = [ids[:limit] for ids in tokenizer.encode_batch([text[: 16 * limit] for text in texts])]
    nats = np.full(len(texts), np.nan)
    n_bytes = np.array([float(len(tokenizer.decode_bytes(ids))) or np.nan for ids in rows])
    device = next(model.parameters()).device
    with torch.inference_mode():
        for batch in _batches([len(ids) for ids in rows], batch_tokens):
            longest = max(len(rows[i]) for i in batch)
            ids_BT = torch.full((len(batch), longest), tokenizer.pad_id, dtype=torch.int64)
            for row, i in enumerate(batch):
                ids_BT[row, : len(rows[i])] = torch.tensor(list(rows[i]), dtype=torch.int64)
            inputs = torch.cat([torch.full((len(batch), 1), tokenizer.eos_id), ids_BT[:, :-1]], 1).to(device)
            logits = model(inputs).float()
            costs = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), ids_BT.to(device).flatten(), reduction="none"
            )
            costs_BT = costs.view(len(batch), longest).double().cpu()
            for row, i in enumerate(batch):
                nats[i] = float(costs_BT[row, : len(rows[i])].sum())
    return nats, np.array([float(len(ids)) or np.nan for ids in rows]), n_bytes


def _batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of like length, together at most ``batch_tokens`` with padding (one row at least); empty ones left out."""
    order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: (lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and lengths[i] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch

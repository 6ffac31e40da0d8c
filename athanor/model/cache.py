"""Static key-value cache for incremental decoding; every row has a length of its own."""

from __future__ import annotations

import copy

import torch

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig


class KVCache:
    """Keys and values of all layers: lists of [B, Hkv, max_len, Dh]; ``lens_B`` (int64) is how much of a row is filled.

    A forward pass writes new keys behind ``lens_B`` and does not move it: the caller calls :meth:`advance` with the
    true number of new tokens of each row, so right-padded ragged prompts need no mask of their own.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_len: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch_size, config.num_key_value_heads, max_len, config.head_size)
        self.max_len = max_len
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.lens_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.longest = 0  # host copy of max(lens_B): slicing needs no device sync

    def advance(self, n: int | torch.Tensor) -> None:
        """Mark ``n`` more tokens as filled: one number for all rows, or an int64 tensor [B]."""
        self.lens_B = self.lens_B + n
        self.longest = self.longest + n if isinstance(n, int) else int(self.lens_B.max()) if len(self.lens_B) else 0

    def write(self, layer: int, k_BTHD: torch.Tensor, v_BTHD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store T new tokens of each row at its length; returns views [B, Hkv, longest + T, Dh] of keys and values."""
        n_new = k_BTHD.shape[1]
        end = self.longest + n_new
        if end > self.max_len:
            raise AthanorError(
                f"{end} tokens do not fit a key-value cache of {self.max_len}",
                where="generation",
                fix="shorten the prompt, lower max_new_tokens or make a larger cache",
            )
        k, v = self.k[layer], self.v[layer]
        if self.longest == 0:
            k[:, :, :n_new] = k_BTHD.transpose(1, 2)
            v[:, :, :n_new] = v_BTHD.transpose(1, 2)
        else:
            rows = torch.arange(k.shape[0], device=k.device)[:, None]
            where = self.lens_B[:, None] + torch.arange(n_new, device=k.device)
            k.transpose(1, 2)[rows, where] = k_BTHD
            v.transpose(1, 2)[rows, where] = v_BTHD
        return k[:, :, :end], v[:, :, :end]

    def part(self, rows: slice) -> KVCache:
        """Some rows as a cache of their own that writes to this one's tensors; lengths are those of now."""
        view = copy.copy(self)
        view.k, view.v = [k[rows] for k in self.k], [v[rows] for v in self.v]
        view.lens_B = self.lens_B[rows]
        return view

    def visible_BTS(self, n_new: int) -> torch.Tensor:
        """Boolean [B, T, longest + T]: key s is seen by new token t of row b when s <= lens_B[b] + t."""
        last_BT = self.lens_B[:, None] + torch.arange(n_new, device=self.lens_B.device)
        return torch.arange(self.longest + n_new, device=self.lens_B.device) <= last_BT[..., None]

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` (int64 indices), in that order."""
        self.k = [k[rows] for k in self.k]
        self.v = [v[rows] for v in self.v]
        self.lens_B = self.lens_B[rows]
        self.longest = int(self.lens_B.max()) if len(rows) else 0

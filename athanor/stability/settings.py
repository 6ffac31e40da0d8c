"""What a laboratory run is: architectures, cells of the grid, and the settings that all cells share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field

from athanor.errors import AthanorError
from athanor.files import digest
from athanor.model.config import InitName, ModelConfig, NormPlacement, Strict
from athanor.recipe.schema import OptimizerRecipe, ScheduleRecipe, TrainRecipe

#: Short names of the norm placements.
SHORT: dict[str, NormPlacement] = {"pre": "pre", "sandwich": "sandwich", "dssn": "depth_scaled_sandwich"}
DEFAULT_ARCHS = ("pre+small", "sandwich+small", "dssn+small", "dssn+tiny")
DEFAULT_LRS = (1e-3, 3e-3, 1e-2)
VOCAB_SIZE = 256


@dataclass(frozen=True, slots=True)
class Arch:
    """A norm placement with an initialisation, written ``placement+init``."""

    placement: NormPlacement
    init: InitName

    @property
    def label(self) -> str:
        """The short name, such as ``dssn+tiny``."""
        short = next(name for name, placement in SHORT.items() if placement == self.placement)
        return f"{short}+{self.init}"


def parse_arch(text: str) -> Arch:
    """``pre+small``, ``dssn+tiny``, ``depth_scaled_sandwich+scaled-residual``… ; AthanorError for anything else."""
    placement, plus, init = text.strip().partition("+")
    placement = SHORT.get(placement, placement)
    if not plus or placement not in get_args(NormPlacement) or init not in get_args(InitName):
        raise AthanorError(
            f"{text!r} is not an architecture of the laboratory",
            where="--archs",
            fix=f"write placement+init: one of {', '.join(SHORT)} and one of {', '.join(get_args(InitName))}",
        )
    return Arch(placement, init)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run of the grid."""

    arch: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """The name of the result file, without its suffix."""
        return f"{self.arch}-lr{self.lr:g}-seed{self.seed}"


class LabSettings(Strict):
    """What every cell shares. Lengths in tokens (= bytes), ``probe_every`` in steps."""

    layers: int = Field(default=94, gt=0)
    width: int = Field(default=64, gt=0)
    heads: int = Field(default=4, gt=0)
    steps: int = Field(default=200, gt=0)
    seq_len: int = Field(default=64, gt=1)
    batch_rows: int = Field(default=8, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    clip_norm: float = Field(default=1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    heldout_bytes: int = Field(default=16_384, gt=0)
    probe_every: int = Field(default=20, gt=0)
    compile: bool = True
    model: dict[str, Any] = Field(default_factory=dict, description="ModelConfig keys that differ from the usual")
    optimizer: dict[str, Any] = Field(default_factory=dict, description="OptimizerRecipe keys that differ from these")

    def identity(self) -> dict[str, Any]:
        """JSON values of everything that changes a result. ``optimizer`` came later: while it says nothing it is left
        out, so that finished laboratories stay valid."""
        return self.model_dump(mode="json", exclude=None if self.optimizer else {"optimizer"})

    def key(self, corpus_digest: str) -> str:
        """A hash of everything that changes a result: results of another key are not mixed in."""
        return digest({**self.identity(), "corpus": corpus_digest})[:16]

    def model_config_for(self, arch: Arch) -> ModelConfig:
        """The decoder of one architecture: SwiGLU of 8/3 width (in multiples of 16), RoPE, untied, bytes as tokens."""
        shape: dict[str, Any] = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": self.width,
            "intermediate_size": -(-self.width * 8 // 3 // 16) * 16,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": self.seq_len,
            "norm_placement": arch.placement,
            "init": arch.init,
        }
        try:
            return ModelConfig(**{**shape, **self.model})
        except ValueError as error:
            raise AthanorError(str(error), where="laboratory model") from error

    def model_config_for_label(self, label: str) -> ModelConfig:
        """As ``model_config_for``, from ``placement+init``."""
        return self.model_config_for(parse_arch(label))

    def train_recipe(self, lr: float) -> TrainRecipe:
        """The product's own training recipe for one cell; AthanorError for an optimizer key that does not exist."""
        tokens = self.seq_len * self.batch_rows
        usual = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        try:
            optimizer = OptimizerRecipe(**{**usual, **self.optimizer})
        except ValueError as error:
            raise AthanorError(str(error), where="laboratory optimizer") from error
        return TrainRecipe(
            seq_len=self.seq_len,
            global_batch_tokens=tokens,
            steps=self.steps,
            precision="fp32",
            clip_norm=self.clip_norm,
            compile=self.compile,
            schedule=ScheduleRecipe(kind=self.schedule, lr=lr, warmup_steps=self.warmup_steps),
            optimizer=optimizer,
            tensorboard=False,
        )


def grid(archs: list[str], lrs: list[float], seeds: int) -> list[Cell]:
    """All cells: one seed of everything first, so that a stopped laboratory already shows the whole picture."""
    labels = list(dict.fromkeys(parse_arch(arch).label for arch in archs))
    if not labels or not lrs or seeds < 1:
        raise AthanorError(
            "the laboratory has nothing to run", fix="give at least one architecture, learning rate and seed"
        )
    if min(lrs) <= 0:
        raise AthanorError(f"learning rate {min(lrs):g} is not positive", where="--lrs")
    return [Cell(arch, lr, seed) for seed in range(seeds) for lr in dict.fromkeys(lrs) for arch in labels]

"""The shape of a decoder, in Hugging Face's field names where those exist."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

NormPlacement = Literal["pre", "sandwich", "depth_scaled_sandwich"]
InitName = Literal["tiny", "small", "scaled-residual", "normal"]


class Strict(BaseModel):
    """Frozen pydantic model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RopeScaling(Strict):
    """RoPE extension: ``linear`` (position interpolation), ``llama3`` and ``yarn``, as transformers defines them."""

    rope_type: Literal["linear", "llama3", "yarn"] = "linear"
    factor: float = Field(default=1.0, gt=0)
    original_max_position_embeddings: int = 4096
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


class MoEConfig(Strict):
    """Dropless mixture-of-experts feed-forward."""

    num_experts: int = Field(gt=0)
    num_experts_per_tok: int = Field(gt=0)
    moe_intermediate_size: int = Field(gt=0)
    num_shared_experts: int = Field(default=0, ge=0)
    norm_topk_prob: bool = True
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    #: ``loss``: Switch-style auxiliary loss; ``bias``: loss-free balancing by a router bias (DeepSeek-V3).
    balance: Literal["loss", "bias", "none"] = "loss"
    router_aux_loss_coef: float = 0.001
    bias_update_rate: float = 0.001
    first_k_dense: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _top_k_fits(self) -> MoEConfig:
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(
                f"num_experts_per_tok ({self.num_experts_per_tok}) exceeds num_experts ({self.num_experts})"
            )
        return self


class ModelConfig(Strict):
    """Architecture of one decoder-only model. Sizes in elements; names follow Hugging Face configs."""

    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(default=0, ge=0, description="0: hidden_size / num_attention_heads")
    hidden_act: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    mlp_gated: bool = Field(default=True, description="gated (SwiGLU-like) or plain two-matrix feed-forward")
    norm_type: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float = Field(default=1e-5, gt=0)
    norm_placement: NormPlacement = "pre"
    init: InitName = "scaled-residual"
    initializer_range: float = Field(
        default=0.02,
        gt=0,
        description="std of init=normal, and of embeddings by default",
    )
    embedding_init_std: float | None = Field(default=None, description="std of the embedding; None: the init decides")
    head_init_std: float | None = Field(
        default=None, gt=0, description="std of the output matrix where it is not tied; None: the init decides"
    )
    depth_scale_attn: float = Field(default=0.283, gt=0, description="c_attn: post-attention norm gain is c_attn/√L")
    depth_scale_mlp: float = Field(
        default=0.432,
        gt=0,
        description="c_mlp: post-feed-forward norm gain is c_mlp/√L",
    )
    position_embedding: Literal["rope", "learned"] = "rope"
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    partial_rotary_factor: float = Field(default=1.0, gt=0, le=1)
    rope_interleaved: bool = Field(default=False, description="pairs (0,1),(2,3)… (GLM) instead of halves (Llama)")
    max_position_embeddings: int = Field(default=4096, gt=0)
    tie_word_embeddings: bool = False
    attention_bias: bool = Field(default=False, description="bias on q, k, v")
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = Field(default=None, gt=0)
    moe: MoEConfig | None = None
    #: token ids a ModelDir remembers; None where unknown
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if not self.head_dim and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads "
                f"({self.num_attention_heads}); give head_dim or change one of them"
            )
        if self.position_embedding == "rope" and int(self.head_size * self.partial_rotary_factor) % 2:
            raise ValueError(f"rotary width {self.head_size * self.partial_rotary_factor} is odd; RoPE needs pairs")
        return self

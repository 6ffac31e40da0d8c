"""The recipe language: one typed tree for every stage. Unknown keys are refused; units are in the names."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from athanor.model.config import ModelConfig, Strict
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.mixing import MixtureKey, OrderRecipe, ReweightRecipe, WeightingRecipe
from athanor.recipe.steps import StepOptions
from athanor.recipe.steps.clean import RepetitionOptions
from athanor.recipe.synthesis import SynthesisOptions

Precision = Literal["auto", "fp32", "bf16"]
#: Kinds of sources that generate tasks with their solutions.
_GENERATED_TASKS = ("arithmetic", "synthesis")


class SourceRecipe(Strict):
    """One named source of documents. ``kind: files`` is read from ``paths``, ``arithmetic`` is generated, ``stdlib`` is
    the installed Python's own library (``options: {part: code}`` or ``{part: prose}``), ``synthesis`` is
    made from the taxonomy (``options``: ``athanor.recipe.synthesis.SynthesisOptions``)."""

    kind: Literal["files", "arithmetic", "stdlib", "synthesis"] = "files"
    paths: list[str] = Field(default_factory=list, description="files, folders or globs")
    domain: str = "general"
    language: str = "und"
    text_key: str = Field(default="text", description="field of jsonl and parquet rows that holds the text")
    holdout: float = Field(default=0.0, ge=0, lt=1, description="share of documents kept for validation (by id hash)")
    documents: int = Field(default=0, ge=0, description="how many to generate (generated kinds)")
    options: dict[str, Any] = Field(default_factory=dict, description="options of a generated kind or of stdlib")

    @model_validator(mode="after")
    def _synthesis_options(self) -> SourceRecipe:
        if self.kind == "synthesis":
            try:
                SynthesisOptions.model_validate(self.options)
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, ("options", *first["loc"])))
                extra = first["type"] == "extra_forbidden"
                what = "unknown key" if extra else first["msg"].removeprefix("Value error, ")
                raise ValueError(f"{key}: {what}") from None
        return self


class DataRecipe(Strict):
    """Where documents come from, and what is done to them. ``steps`` runs the curation pipeline, in the order given;
    without steps the sources are only read, freed of exact duplicates and split."""

    sources: dict[str, SourceRecipe] = Field(default_factory=dict)
    max_document_bytes: int = Field(default=64_000_000, gt=0)
    steps: list[StepOptions] = Field(default_factory=list, description="curation, in this order")
    part_bytes: int = Field(default=16_000_000, gt=0, description="text that one worker holds at a time")
    workers: int = Field(default=0, ge=0, description="processes of the pipeline; 0: one a core. Never changes results")
    engine: Literal["local", "datatrove"] = Field(default="local", description="who runs the pipeline's jobs")

    @field_validator("steps")
    @classmethod
    def _generated_tasks_may_repeat(cls, steps: list[StepOptions], info: ValidationInfo) -> list[StepOptions]:
        """``repetition`` leaves generated tasks alone unless it is told what to skip."""
        sources: dict[str, SourceRecipe] = info.data.get("sources", {})
        tasks = tuple(sorted(name for name, source in sources.items() if source.kind in _GENERATED_TASKS))
        return [
            step.model_copy(update={"skip_sources": tasks})
            if isinstance(step, RepetitionOptions) and step.skip_sources is None
            else step
            for step in steps
        ]


class TokenizerRecipe(Strict):
    """A byte-level BPE of exactly ``vocab_size`` tokens to train, or an existing tokenizer (``path``) to use."""

    path: str | None = None
    vocab_size: int = Field(default=4096, gt=0, description="special and reserved tokens included")
    train_bytes: int = Field(default=50_000_000, gt=0, description="at most this much text is counted")
    method: Literal["union", "balanced", "parity", "natural", "joint"] = Field(
        default="union",
        description="union: domains' own vocabularies united, merges derived anew; balanced: one BPE on counts "
        "balanced by domain; parity: each merge for the domain compressed worst; natural: one BPE on the text as it "
        "is; joint: one BPE on equal bytes of each source",
    )
    balance: float = Field(
        default=0.85, ge=0, le=1, description="union, balanced: 1 gives domains an equal say, 0 a say by their bytes"
    )
    weights: dict[str, float] = Field(default_factory=dict, description="union, balanced: a domain's say; default 1")
    refine_rounds: int = Field(
        default=1, ge=0, description="union: how often the tokens used least are exchanged for better ones"
    )
    min_frequency: int = Field(default=2, ge=1, description="a pair must occur this often to become a token")
    digits: Literal["single", "three"] = Field(default="single", description="tokens of one digit, or of up to three")
    reserved: int = Field(default=0, ge=0, description="tokens <|reserved_0|> … kept free for later use")
    compare: bool = Field(default=True, description="train the other methods too and set them beside in the report")


class ScheduleRecipe(Strict):
    """Learning rate over one stage: linear warm-up to ``lr``, then the named shape down to ``min_lr``."""

    kind: Literal["cosine", "wsd", "constant", "linear"] = "cosine"
    lr: float = Field(default=3e-4, gt=0)
    min_lr: float = Field(default=0.0, ge=0)
    start_lr: float = Field(default=0.0, ge=0, description="learning rate before the first warm-up step")
    warmup_steps: int = Field(default=0, ge=0)
    decay_share: float = Field(default=0.2, ge=0, le=1, description="wsd: last share of the steps that decays")


class BatchStep(Strict):
    """From ``after_tokens`` on, the global batch is ``global_batch_tokens``."""

    after_tokens: int = Field(ge=0)
    global_batch_tokens: int = Field(gt=0)


class StageRecipe(Strict):
    """One pre-training stage: mixture, length, batch, schedule, RoPE base. Give ``tokens`` or ``steps``."""

    name: str
    mixture: MixtureKey = Field(
        default_factory=dict, description="weight by source; empty: by tokens; or {preset: …}, {file: …}, {domains: …}"
    )
    weighting: WeightingRecipe = WeightingRecipe()
    order: OrderRecipe = OrderRecipe()
    reweight: ReweightRecipe | None = Field(default=None, description="shares follow the losses by source")
    tokens: int | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    tokens_share: float | None = Field(default=None, gt=0, le=1, description="length as a share of train.tokens")
    seq_len: int | None = Field(default=None, gt=0)
    global_batch_tokens: int | None = Field(default=None, gt=0)
    batch_ramp: list[BatchStep] = Field(default_factory=list)
    schedule: ScheduleRecipe | None = None
    rope_theta: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_length(self) -> StageRecipe:
        if self.tokens is not None and self.steps is not None:
            raise ValueError(f"stage {self.name} gives both tokens and steps; keep one of the two")
        if self.tokens_share is not None and (self.tokens is not None or self.steps is not None):
            raise ValueError(f"stage {self.name} gives tokens_share beside tokens or steps; keep one")
        return self

    @model_validator(mode="after")
    def _one_order(self) -> StageRecipe:
        if self.reweight is not None and self.order.kind != "shuffled":
            raise ValueError(
                f"stage {self.name}: order {self.order.kind} spreads a known number of rows over the stage, which "
                "reweight changes as it goes; keep one of the two"
            )
        return self


class OptimizerRecipe(Strict):
    """Decoupled AdamW."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    fused: bool = True
    decay_embeddings: bool = True
    post_norm_lr: Literal["same", "depth_scaled"] = Field(
        default="same",
        description="depth_scaled: norms behind attention and feed-forward move at the rate × c/√L, where a "
        "depth-scaled sandwich begins them; no effect on other placements",
    )


class TrainRecipe(Strict):
    """The loop. Batch sizes are in tokens; ``steps``/``tokens`` here serve recipes without ``stages``."""

    seq_len: int = Field(default=512, gt=0)
    global_batch_tokens: int = Field(default=8192, gt=0)
    micro_batch_tokens: int | None = Field(default=None, gt=0, description="None: the whole local batch at once")
    steps: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    precision: Precision = "auto"
    clip_norm: float = Field(default=1.0, gt=0)
    compile: bool = False
    schedule: ScheduleRecipe = ScheduleRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    stages: list[StageRecipe] = Field(default_factory=list)
    eval_every_steps: int = Field(default=0, ge=0, description="0: at the end of each stage only")
    eval_tokens: int = Field(default=65_536, gt=0)
    checkpoint_every_steps: int = Field(default=0, ge=0, description="0: at stage ends and on a stop only")
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every_steps: int = Field(default=1, ge=1)
    tensorboard: bool = True
    deterministic: bool = True


class SFTRecipe(Strict):
    """Supervised fine-tuning on conversations (jsonl of ``messages``, or the arithmetic generator)."""

    sources: dict[str, SourceRecipe] = Field(default_factory=dict)
    train: TrainRecipe = TrainRecipe()


class RLRecipe(Strict):
    """Outcome-based RL (GRPO, arXiv 2402.03300): ``prompts_per_step`` × ``group_size`` rollouts a step."""

    sources: dict[str, SourceRecipe] = Field(default_factory=dict)
    verifier: Literal["arithmetic", "exact", "choice"] = "arithmetic"
    prompts_per_step: int = Field(default=16, gt=0)
    group_size: int = Field(default=8, gt=1)
    max_new_tokens: int = Field(default=96, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    clip_low: float = Field(default=0.2, gt=0)
    clip_high: float = Field(default=0.28, gt=0, description="DAPO's higher upper clip, arXiv 2503.14476")
    kl_coef: float = Field(default=0.0, ge=0)
    normalize_std: bool = Field(default=True, description="divide group advantages by their std")
    updates_per_batch: int = Field(default=1, ge=1)
    train: TrainRecipe = TrainRecipe()


class EvalRecipe(Strict):
    """Evaluation of a model directory."""

    tasks: list[str] = Field(default_factory=lambda: ["arithmetic"])
    questions: int = Field(default=200, gt=0)
    max_new_tokens: int = Field(default=96, gt=0)
    batch_size: int = Field(default=64, gt=0)
    samples: int = Field(default=0, ge=0, description="besides the greedy answer, sample this many for each question")
    temperature: float = Field(default=1.0, gt=0, description="of the sampled answers")


class PlanRecipe(Strict):
    """What the planner goes by in ``parallel: auto`` and in a run's prediction."""

    cluster: str | None = Field(
        default=None, description="cluster name or file; null: $ATHANOR_CLUSTER, else this machine's last calibration"
    )


class Recipe(Strict):
    """A whole life: documents → tokenizer → stages → SFT → RL → evaluation. Sections a command needs must be there."""

    name: str = "run"
    seed: int = Field(default=0, ge=0)
    model: ModelConfig | None = Field(default=None, description="shape; `preset: NAME` starts from a named one")
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    data: DataRecipe = DataRecipe()
    train: TrainRecipe = TrainRecipe()
    sft: SFTRecipe = SFTRecipe()
    rl: RLRecipe = RLRecipe()
    eval: EvalRecipe = EvalRecipe()
    parallel: ParallelPlan | Literal["auto"] = Field(
        default=ParallelPlan(), description="layout over ranks; sizes all 1: dp_shard is filled; auto: the planner's"
    )
    plan: PlanRecipe = PlanRecipe()

    @model_validator(mode="after")
    def _sequences_fit(self) -> Recipe:
        if self.model is None:
            return self
        limit = self.model.max_position_embeddings
        given = {f"train.stages.{i} ({s.name})": s.seq_len for i, s in enumerate(self.train.stages)}
        given |= {
            name: train.seq_len
            for name, train in (("train", self.train), ("sft.train", self.sft.train), ("rl.train", self.rl.train))
            if "seq_len" in train.model_fields_set
        }
        for name, seq_len in given.items():
            if seq_len is not None and seq_len > limit:
                raise ValueError(
                    f"{name}: seq_len {seq_len} is longer than model.max_position_embeddings {limit}; "
                    "shorten the one or raise the other"
                )
        return self

    @model_validator(mode="after")
    def _mixtures_name_sources(self) -> Recipe:
        for stage in self.train.stages:
            for source in stage.mixture if isinstance(stage.mixture, dict) else ():
                if source not in self.data.sources:
                    known = ", ".join(self.data.sources) or "none"
                    raise ValueError(f"stage {stage.name}: mixture names source {source!r}; data.sources has: {known}")
        return self

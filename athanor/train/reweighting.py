"""Online re-weighting in the loop: losses by source → shares of the steps to come, recorded, exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from athanor.data.loader import PackedLoader
from athanor.data.mixtures import write_mixture
from athanor.data.reweight import Reweighter, recorded, reference_losses
from athanor.recipe.mixing import ReweightRecipe
from athanor.train.callbacks import Callback, StepInfo
from athanor.train.objective import LOSS_SUM, TARGETS
from athanor.train.run_dir import RunDir
from athanor.train.sources import PackedSource
from athanor.train.stages import Stage

if TYPE_CHECKING:
    from athanor.train.trainer import Trainer

#: Steps between the one whose losses decide and the first that the decision holds for: the batches of the one in
#: between may have been fetched already.
LAG_STEPS = 1


class Reweighting(Callback):
    """Adds ``loss/SOURCE`` to the metrics of every step, and moves the shares of stages that ask for it.

    Each update is an event ``mixture``: ``stage``, ``step`` (of the run), ``from_row`` (of the stage) on which the
    ``shares`` hold, ``losses`` and ``excess`` by source. The shares are a function of the losses, which are totals over
    all ranks, so every rank decides alike; the switches are in the checkpoint, so a resumed run reads the same rows. At
    the end of a stage its mean shares are written to ``mixture-STAGE.yaml``.
    """

    name = "reweighting"

    def __init__(self, rules: dict[str, ReweightRecipe], run: RunDir) -> None:
        """``rules``: by stage."""
        self.rules, self.run = rules, run
        self._stage: Stage | None = None
        self._sums: dict[str, list[float]] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._rule: Reweighter | None = None

    @staticmethod
    def _loader(stage: Stage) -> PackedLoader:
        source = stage.source
        assert isinstance(source, PackedSource) and isinstance(source.loader, PackedLoader)
        return source.loader

    def on_stage_start(self, trainer: Trainer, stage: Stage) -> None:
        """Take up the stage's rule where a checkpoint left it; with ``replay`` put all recorded switches in."""
        self._stage, self._rule = stage, None
        recipe = self.rules.get(stage.name)
        if recipe is None:
            return
        loader = self._loader(stage)
        if recipe.replay is not None:
            for row, shares in recorded(recipe.replay, stage.name):
                if not loader.switches or row > loader.switches[-1][0]:
                    loader.switch(row, shares)
            return
        if recipe.method == "watch":
            return
        prior = {name: entry["token_share"] for name, entry in loader.describe().items()}
        self._rule = Reweighter(recipe, prior, reference_losses(recipe.reference))
        if stage.name in self._states:
            self._rule.load_state_dict(self._states[stage.name])
        else:
            self._sums = {}

    def on_step(self, info: StepInfo) -> None:
        """Losses by source into the metrics; at an update step, new shares."""
        for name in [key.removeprefix(LOSS_SUM) for key in info.metrics if key.startswith(LOSS_SUM)]:
            loss, count = info.metrics.pop(LOSS_SUM + name), info.metrics.pop(TARGETS + name)
            if count:
                info.metrics[f"loss/{name}"] = loss / count
            before = self._sums.setdefault(name, [0.0, 0.0])
            self._sums[name] = [before[0] + loss, before[1] + count]
        if self._rule is None or self._stage is None:
            return
        rule, done = self._rule.rule, info.stage_step + 1
        first = done + LAG_STEPS
        if done < rule.warmup_steps or done % rule.every_steps or first >= self._stage.total_steps:
            return
        losses = {name: total / count for name, (total, count) in self._sums.items() if count}
        self._sums = {}
        shares = self._rule.update(losses)
        source = self._stage.source
        assert isinstance(source, PackedSource)
        row = source.plan.rows(first)[0]
        self._loader(self._stage).switch(row, shares)
        self.run.event(
            "mixture",
            stage=info.stage,
            step=info.step,
            from_row=row,
            shares=shares,
            losses=dict(self._rule.losses),
            excess=self._rule.excess() if rule.method == "excess" else {},
        )

    def on_stage_end(self, trainer: Trainer, stage: Stage) -> None:
        """Export the mean of the shares, for ``mixture: {file: …}`` of the next run."""
        if self._rule is not None and trainer.engine.is_main:
            about = {"method": self._rule.rule.method, "updates": self._rule.updates, "last": self._rule.shares}
            write_mixture(self.run.path / f"mixture-{stage.name}.yaml", self._rule.mean_shares(), **about)

    def state_dict(self) -> dict[str, Any]:
        """JSON values: the state of the stage's rule and the sums since its last update."""
        if self._rule is None or self._stage is None:
            return {"states": {}, "sums": {}}
        return {"states": {self._stage.name: self._rule.state_dict()}, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` gave."""
        self._states, self._sums = dict(state["states"]), dict(state["sums"])

"""``diwa evaluate finetuning``: is what a run dreamed of its checkpoints true?"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diwa_conventions.errors import UserError
from diwa_policy.evaluation.environments import EnvironmentOptions
from diwa_policy.evaluation.evaluate_policy import EPISODES, check_episodes, command

if TYPE_CHECKING:
    from diwa_policy.evaluation.dream_vs_truth import Checkpoint, DreamVsTruth
    from diwa_policy.finetune.signals import Trust
    from diwa_worldmodel.artefact import LoadedWorldModel

FOLDER = "evaluation"
NUMBERS, TEXT, PLOT = "dream_vs_truth.json", "dream_vs_truth.txt", "dream_vs_truth.png"


@dataclass(frozen=True)
class EvaluateFineTuning:
    """Try every checkpoint of a fine-tuning run in an environment, and show dream and truth side by side.

    Tells as well how much worse than the best checkpoint the one is that the run chose without the environment. Ctrl-C
    ends it with the numbers of the episodes that are done.
    """

    fine_tuning: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, made by diwa finetune."""
    world_model: Path
    """Folder of the world model that the run dreamed in."""
    episodes: int = 200
    """Episodes of every checkpoint in each set."""
    seeds: int = 1
    """Sets of episodes, each with starts and noise of its own."""
    out: Path | None = None
    """Folder for table, numbers and plot. If not given, evaluation/ in the run's folder."""
    environment: Annotated[EnvironmentOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=EnvironmentOptions)

    def run(self) -> int:
        """0; 130 or 143 when stopped by SIGINT or SIGTERM. UserError or OSError for what the user can mend."""
        from diwa_worldmodel.training.stopping import stopping_on_signals

        with stopping_on_signals() as caught:
            compared = self.compare(caught)
        if compared is None:
            print("diwa evaluate finetuning: stopped before every checkpoint was tried once", file=sys.stderr)
            return 128 + caught[0]
        print(compared.to_text(), end="")
        print(f"table, numbers and plot: {self.folder}")
        return 128 + caught[0] if caught else 0

    @property
    def folder(self) -> Path:
        return self.out or self.fine_tuning / FOLDER

    def compare(self, caught: Sequence[int] = ()) -> DreamVsTruth | None:
        """What :meth:`run` shows, also written; None if ``caught`` held something before there was anything."""
        from diwa_policy.evaluation.dream_vs_truth import DreamVsTruth
        from diwa_policy.evaluation.shared_starts import Starts, all_tried, try_policies
        from diwa_policy.evaluation.trial_pool import TrialPool
        from diwa_policy.finetune.selection import judge
        from diwa_policy.finetune.signals import TRUST, read_trust
        from diwa_worldmodel.artefact import check_writable, load_world_model

        begun = time.monotonic()
        check_episodes(self.episodes, self.seeds)
        trust = read_trust(self.fine_tuning / TRUST)
        world_model = load_world_model(self.world_model)
        checkpoints = self._load(world_model, trust)
        world = self.environment.world(world_model, trust.skill)
        check_writable(self.folder, "the evaluation")
        starts = Starts(self.seeds, self.episodes)
        with TrialPool(world, self.environment.workers) as pool:
            try_policies(pool, [one.tried for one in checkpoints], starts, lambda: bool(caught))
        if not all(one.tried.episodes for one in checkpoints):
            return None
        compared = DreamVsTruth(
            run=str(self.fine_tuning),
            task=trust.skill,
            environment=self.environment.env,
            world_model=world_model.hash,
            starts=starts,
            judgement=judge(trust),
            checkpoints=checkpoints,
            command=command("diwa evaluate finetuning", self, self.environment),
            seconds=time.monotonic() - begun,
            interrupted=not all_tried([one.tried for one in checkpoints], starts),
        )
        self._write(compared)
        return compared

    def _load(self, world_model: LoadedWorldModel, trust: Trust) -> tuple[Checkpoint, ...]:
        """Every policy whose dreams were checked."""
        from diwa_policy.artefacts import check_lineage, load_policy
        from diwa_policy.evaluation.dream_vs_truth import Checkpoint
        from diwa_policy.evaluation.shared_starts import Tried
        from diwa_policy.finetune.loop import checkpoint_folder

        if not trust.checkpoints:
            raise UserError(f"{self.fine_tuning} has no checkpoint yet; go on with diwa finetune")
        found = []
        for signals in trust.checkpoints:
            loaded = load_policy(checkpoint_folder(self.fine_tuning, signals.iteration))
            found.append(Checkpoint(signals, Tried(str(loaded.folder), loaded)))
        check_lineage(world_model, *(one.tried.loaded for one in found))
        return tuple(found)

    def _write(self, compared: DreamVsTruth) -> None:
        from diwa_policy.evaluation.comparison import to_csv

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / NUMBERS).write_text(compared.to_json(), encoding="utf-8")
        (self.folder / TEXT).write_text(compared.to_text(), encoding="utf-8")
        (self.folder / PLOT).write_bytes(compared.plot_png())
        episodes = to_csv([one.tried for one in compared.checkpoints], compared.starts)
        (self.folder / EPISODES).write_text(episodes, encoding="utf-8")

"""``diwa evaluate policy``: how often policies succeed, from the same starts, with intervals."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diwa_conventions.errors import UserError
from diwa_policy.evaluation.environments import EnvironmentOptions

if TYPE_CHECKING:
    from diwa_policy.evaluation.comparison import Comparison
    from diwa_policy.evaluation.shared_starts import Tried
    from diwa_policy.evaluation.trial_pool import TrialPool
    from diwa_worldmodel.artefact import LoadedWorldModel

NUMBERS, EPISODES = "evaluation.json", "episodes.csv"
_WIDTH = 160
"""Of the table [characters] where there is no terminal."""
_COMMAND = "diwa evaluate policy"
_POSITIONAL = ("policies", "fine_tuning")


@dataclass(frozen=True)
class EvaluatePolicy:
    """Try policies in an environment, all from the same starts, and compare them with the first one.

    Tells success rates and differences with their 95% intervals, and films some episodes. Ctrl-C ends it with the
    numbers of the episodes that are done.
    """

    policies: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Policy folders; the first one, for instance the pre-trained policy, is what others are compared with."""
    world_model: Path
    """Folder of the world model that the policies were made with."""
    task: str = ""
    """Task to try; policies for another one are refused. If not given, the one that they were made for."""
    episodes: int = 200
    """Episodes of every policy in each set."""
    seeds: int = 3
    """Sets of episodes, each with starts and noise of its own."""
    reward: Path | None = None
    """Folder of a reward classifier to check too: does it see success in successful episodes, and in no others?"""
    films: int = 2
    """So many successes, and so many failures, of every policy are filmed."""
    out: Path | None = None
    """Folder for numbers and films. If not given, POLICY_evaluation beside the first POLICY's folder."""
    environment: Annotated[EnvironmentOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=EnvironmentOptions)

    def run(self) -> int:
        """0; 130 or 143 when stopped by SIGINT or SIGTERM. UserError or OSError for what the user can mend."""
        from rich.console import Console

        from diwa_worldmodel.training.stopping import stopping_on_signals

        with stopping_on_signals() as caught:
            comparison = self.compare(caught)
        if not comparison.done:
            print(f"{_COMMAND}: stopped before the first episode was done; nothing was written", file=sys.stderr)
            return 128 + caught[0]
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _WIDTH
        console.print(comparison.table())
        for note in comparison.notes():
            print(note)
        print(f"numbers and films: {self.folder}")
        return 128 + caught[0] if caught else 0

    @property
    def folder(self) -> Path:
        """Never in a policy's own folder: that is replaced as a whole when the policy is made again."""
        first = self.policies[0].resolve()
        return self.out or first.with_name(f"{first.name}_evaluation")

    def compare(self, caught: Sequence[int] = ()) -> Comparison:
        """What :meth:`run` shows, also written; it ends as soon as ``caught`` holds something."""
        from diwa_policy.evaluation.comparison import Comparison
        from diwa_policy.evaluation.shared_starts import Starts, all_tried, try_policies
        from diwa_policy.evaluation.trial_pool import TrialPool
        from diwa_worldmodel.artefact import check_writable, load_world_model

        begun = time.monotonic()
        self._check()
        world_model = load_world_model(self.world_model)
        tried = self._load(world_model)
        world = self.environment.world(world_model, tried[0].loaded.metadata.skill, self.reward)
        check_writable(self.folder, "the evaluation")
        starts = Starts(self.seeds, self.episodes)
        with TrialPool(world, self.environment.workers) as pool:
            try_policies(pool, tried, starts, lambda: bool(caught))
            comparison = Comparison(
                task=world.task,
                environment=self.environment.env,
                world_model=world_model.hash,
                starts=starts,
                tried=tuple(tried),
                command=command(_COMMAND, self, self.environment),
                seconds=time.monotonic() - begun,
                interrupted=not all_tried(tried, starts),
            )
            if comparison.done:
                self._write(comparison)
                self._film(pool, tried, caught)
        return comparison

    def _check(self) -> None:
        check_episodes(self.episodes, self.seeds)
        if not 0 <= self.films <= 100:
            raise UserError(f"--films is {self.films}; expected 0 to 100")
        if not self.policies:
            raise UserError("no policy is named; expected at least one folder made by diwa pretrain or diwa finetune")
        for number, path in enumerate(self.policies):
            if path.resolve() in [other.resolve() for other in self.policies[:number]]:
                raise UserError(f"{path} is named twice; name each policy once")
        if self.task:
            self.environment.check(self.task)

    def _load(self, world_model: LoadedWorldModel) -> list[Tried]:
        """UserError unless all belong together."""
        from diwa_policy.artefacts import check_lineage, load_policy, load_reward
        from diwa_policy.evaluation.shared_starts import Tried

        policies = [load_policy(path) for path in self.policies]
        reward = load_reward(self.reward) if self.reward else None
        check_lineage(world_model, *policies, *([reward] if reward else []))
        skill = policies[0].metadata.skill
        if self.task not in ("", skill):
            raise UserError(f"{self.policies[0]} is a policy for {skill!r}; expected one for --task {self.task}")
        threshold = float(reward.classifier.threshold) if reward else 0.5
        return [Tried(str(path), one, threshold) for path, one in zip(self.policies, policies, strict=True)]

    def _write(self, comparison: Comparison) -> None:
        from diwa_policy.evaluation.comparison import to_csv

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / NUMBERS).write_text(comparison.to_json(), encoding="utf-8")
        (self.folder / EPISODES).write_text(to_csv(comparison.tried, comparison.starts), encoding="utf-8")

    def _film(self, pool: TrialPool, tried: list[Tried], caught: Sequence[int]) -> None:
        """The first successes and failures once more, with pictures: the same seed gives the same episode."""
        from diwa_policy.evaluation.progress import episodes_bar
        from diwa_policy.evaluation.trial_films import pick, to_film, write_films

        jobs = pick([[one.episodes[number] for number in sorted(one.episodes)] for one in tried], self.films)
        shown = {}
        with episodes_bar("films", len(jobs)) as tell:
            for done, episode in pool.run([one.loaded.policy for one in tried], jobs, lambda: bool(caught)):
                policy = jobs[done].policy
                shown[done] = to_film(policy, "/".join(self.policies[policy].parts[-2:]), episode)
                tell("")
        write_films([shown[done] for done in sorted(shown)], self.folder)


def check_episodes(episodes: int, seeds: int) -> None:
    """UserError for a number out of range."""
    for name, value, high in (("episodes", episodes, 1_000_000), ("seeds", seeds, 1000)):
        if not 1 <= value <= high:
            raise UserError(f"--{name} is {value}; expected 1 to {high}")


def command(prog: str, options: Any, environment: EnvironmentOptions) -> str:
    """What the user could type again: required parts and what differs from the defaults."""
    words: list[str] = []
    for part in (options, environment):
        for item in fields(part):
            value = getattr(part, item.name)
            if value in (item.default, environment):
                continue
            if item.name not in _POSITIONAL:
                words.append(f"--{item.name.replace('_', '-')}")
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return f"{prog} {shlex.join(words)}"

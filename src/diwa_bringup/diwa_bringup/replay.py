"""``diwa replay``: a bag on its topics, and what a policy that was served says beside what it should have said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from diwa_bringup.replay_graph import REPLAY
from diwa_bringup.up import up
from diwa_conventions.bags.reader import Bag
from diwa_conventions.errors import UserError
from diwa_conventions.topics import NAMESPACE


@dataclass(frozen=True)
class Replay:
    """Play a bag's messages on the topics they were recorded from; or check the actions of the run that is in it.

    With --policy and --world-model that policy says on shadow_action what it would do. Ctrl-C stops. Further arguments:
    diwa up replay --help.
    """

    bag: tyro.conf.Positional[Path]
    """Folder of the bag, or one of its MCAP files."""
    rate: float = 1.0
    """Times as fast as it was recorded."""
    clock: bool = True
    """Publish the bag's times on /clock; stamps are those of the recording, so nodes must live in its time."""
    loop: bool = False
    """Begin anew at the bag's end, until Ctrl-C."""
    start_offset: float = 0.0
    """Seconds to leave out of the bag's beginning."""
    duration: float = 0.0
    """Seconds to play; 0: to the end."""
    topics: tuple[str, ...] = ()
    """What is played; by default what a policy and the importer see."""
    policy: Path | None = None
    """Policy to be fed, or, with --compare, that served the run in the bag."""
    world_model: Path | None = None
    """World model of that policy."""
    reward: Path | None = None
    """Reward classifier of that policy."""
    import_to: Path | None = None
    """Data set, new or to add to, to make of the topics."""
    record: Path | None = None
    """Bag, for --compare, of what is played and of what the policy says."""
    compare: bool = False
    """Play nothing: compute offline what the policy should have done in the run that is in the bag."""
    namespace: str = NAMESPACE
    """Of all nodes and topics."""
    parameters: str = ""
    """YAML file of ROS parameters for any of the nodes."""

    def run(self) -> int:
        """0; with --compare 1 if an action differs by more than rounding. UserError for what the user can mend."""
        if self.compare:
            return self._compare()
        Bag(self.bag)  # a bag that cannot be read is told before anything starts
        code = up(REPLAY, self.words())
        if code == 0 and self.import_to:
            print(f"next: diwa inspect {self.import_to}")
        return code

    def words(self) -> tuple[str, ...]:
        """As arguments of the graph."""
        values = {
            "bag": self.bag,
            "rate": self.rate,
            "clock": str(self.clock).lower(),
            "loop": str(self.loop).lower(),
            "start_offset_s": self.start_offset,
            "duration_s": self.duration,
            "topics": ",".join(self.topics),
            "policy": self.policy or "",
            "world_model": self.world_model or "",
            "reward": self.reward or "",
            "import_to": self.import_to or "",
            "record": self.record or "",
            "namespace": self.namespace,
            "parameters": self.parameters,
        }
        return tuple(f"{name}:={value}" for name, value in values.items())

    def _compare(self) -> int:
        if self.policy is None or self.world_model is None:
            raise UserError("--compare needs --policy POLICY and --world-model WORLD_MODEL, those that served the run")
        from diwa_policy.artefacts import load_policy
        from diwa_policy.serving.parity import TOLERANCE, compare
        from diwa_worldmodel.artefact import load_world_model

        namespace = "" if self.namespace == NAMESPACE else self.namespace
        found = compare(Bag(self.bag), load_policy(self.policy), load_world_model(self.world_model), namespace)
        for comparison in found:
            print(comparison)
        return 0 if all(comparison.agrees(TOLERANCE) for comparison in found) else 1

"""Trials in several processes: spawned (a rendering context does not survive a fork), one thread each.

with TrialPool(world, workers=2) as pool:
    for number, episode in pool.run([base, other], [Job(0, Trial(7)), Job(1, Trial(7))]): ...
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from diwa_conventions.errors import UserError
from diwa_policy.config import PolicyConfig
from diwa_policy.evaluation.environments import World
from diwa_policy.evaluation.trials import Episode, Trial, TrialRoom
from diwa_policy.policy import Policy
from diwa_worldmodel.latent_filter import THREADS
from diwa_worldmodel.worker_process import end_with_parent


class Job(NamedTuple):
    """A trial of one of several policies."""

    policy: int
    """Its place in their list."""
    trial: Trial


class PolicyWeights(NamedTuple):
    """A policy as it goes to another process."""

    config: PolicyConfig
    latent: int
    fine_tuned_steps: int
    arrays: dict[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, policy: Policy) -> PolicyWeights:
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in policy.state_dict().items()}
        return cls(policy.config, policy.latent, policy.fine_tuned_steps, arrays)

    def policy(self) -> Policy:
        """A copy, in evaluation mode."""
        made = Policy(self.config, self.latent, self.fine_tuned_steps)
        made.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in self.arrays.items()})
        return made.eval()


class TrialPool:
    """A room for trials in each of ``workers`` processes (0: one for each core); a single one works in this process.

    Use as a context manager. UserError for what the user can mend about the world, when the first trial is run.
    """

    def __init__(self, world: World, workers: int) -> None:
        self.world = world
        self.workers = workers or len(os.sched_getaffinity(0))
        self._room: TrialRoom | None = None
        self._workers: list[_Worker] = []

    def __enter__(self) -> TrialPool:
        return self

    def __exit__(self, *what: object) -> None:
        for worker in self._workers:
            worker.end()
        if self._room is not None:
            self._room.close()

    def run(
        self, policies: Sequence[Policy], jobs: Sequence[Job], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Episode]]:
        """The jobs' numbers and episodes, as they are done; once ``stop()``, only those that had been begun."""
        if self.workers == 1:
            yield from self._run_here(policies, jobs, stop)
            return
        while len(self._workers) < min(self.workers, len(jobs)):
            self._workers.append(_Worker(self.world))
        free = self._workers[: len(jobs)]
        weights = [PolicyWeights.of(policy) for policy in policies]
        for worker in free:
            worker.send(weights)
        waiting = iter(enumerate(jobs))
        busy: dict[Connection, tuple[_Worker, int]] = {}
        while True:
            for worker, (number, job) in zip(free, waiting if not stop() else (), strict=False):
                worker.send(job)
                busy[worker.connection] = worker, number
            if not busy:
                return
            ready = connection.wait(list(busy))
            done = [busy.pop(one) for one in ready if isinstance(one, Connection)]
            free = [worker for worker, _ in done]
            for worker, number in done:
                yield number, worker.receive()

    def _run_here(
        self, policies: Sequence[Policy], jobs: Sequence[Job], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Episode]]:
        threads = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            self._room = self._room or TrialRoom(self.world)
            for number, job in enumerate(jobs):
                if stop():
                    return
                yield number, self._room.run(policies[job.policy], job.trial)
        finally:
            torch.set_num_threads(threads)


class _Worker:
    """The parent's side of a worker process."""

    def __init__(self, world: World) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, world), daemon=True)
        # It inherits the mask: Ctrl-C is for this process alone, which lets the episodes under way be finished. The
        # tracker, if it were started beside the worker, would unblock the signal again.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()  # so that its end is seen here

    def send(self, message: list[PolicyWeights] | Job) -> None:
        try:
            self.connection.send(message)
        except OSError:  # its last words say why
            pass

    def receive(self) -> Episode:
        """UserError for what was the user's mistake there, and if the process was killed."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise UserError(
                "a worker process has ended before its time (out of memory?); try again with fewer --workers"
            ) from None
        if isinstance(answer, UserError):
            raise answer
        if not isinstance(answer, Episode):
            raise RuntimeError(f"in a worker process:\n{answer}")
        return answer

    def end(self) -> None:
        """At once, also in the middle of an episode: nothing is shared with it."""
        self.connection.close()
        self._process.kill()
        self._process.join()


def _work(jobs: Connection, world: World) -> None:
    """What a worker process does: policies and jobs in, episodes out, until the other side closes."""
    end_with_parent()
    torch.set_num_threads(THREADS)
    # Each worker has a core of its own; threads of Mesa's software renderer would only fight over them.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    policies: list[Policy] = []
    try:
        room = TrialRoom(world)
        while True:
            message = jobs.recv()
            if isinstance(message, Job):
                jobs.send(room.run(policies[message.policy], message.trial))
            else:
                policies = [weights.policy() for weights in message]
    except (EOFError, BrokenPipeError):
        return
    except UserError as error:
        jobs.send(error)
    except Exception:
        jobs.send(traceback.format_exc())

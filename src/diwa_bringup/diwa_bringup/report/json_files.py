"""Reads the JSON that stages left in a run's folder: absent is None, broken is a UserError that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from diwa_conventions.errors import UserError

Read = TypeVar("Read")
Content = Mapping[str, Any]


class Format(NamedTuple):
    """What a file says of itself, and what makes it. Its writers import torch, which a page does without."""

    name: str
    version: int
    made_by: str


EVALUATION = Format("diwa-policy-evaluation", 1, "diwa evaluate policy")
DREAM_VS_TRUTH = Format("diwa-dream-vs-truth", 1, "diwa evaluate finetuning")
WORLD_MODEL_EVALUATION = Format("diwa-world-model-evaluation", 1, "diwa evaluate world-model")
QUALITY = Format("diwa-quality", 1, "diwa inspect")
REWARD = Format("diwa-reward-report", 1, "diwa reward")
WORLD_MODEL = Format("diwa-world-model", 1, "diwa train")
POLICY = Format("diwa-policy", 1, "diwa pretrain or diwa finetune")
CLASSIFIER = Format("diwa-reward", 1, "diwa reward")


def read_json(path: Path, expected: Format, parse: Callable[[Content], Read]) -> Read | None:
    """What ``parse`` makes of the file; None where there is none. UserError for one that holds something else."""

    def checked(content: Content) -> Read:
        found = (content["format"], content["version"])
        if found != (expected.name, expected.version):
            raise ValueError(f"it is {found[0]!r} version {found[1]!r}")
        return parse(content)

    return read_plain(path, f"{expected.name!r} version {expected.version}", expected.made_by, checked)


def read_plain(path: Path, expected: str, made_by: str, parse: Callable[[Content], Read]) -> Read | None:
    """The same of a file that does not tell its format."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {made_by} makes it") from None
    except KeyError as error:
        raise _broken(path, expected, made_by, f"no {error}") from None
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise _broken(path, expected, made_by, str(error)) from None


def _broken(path: Path, expected: str, made_by: str, words: str) -> UserError:
    return UserError(f"{path} is not {expected} ({words}); make it anew with: {made_by}")

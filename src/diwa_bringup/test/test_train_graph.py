"""The graph ``train``: one stage as a node, with the arguments that it takes and no others."""

import ast
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from diwa_bringup.graph import NodeSpec
from diwa_bringup.train_graph import STAGES, TRAIN, Stage
from diwa_conventions.errors import UserError

WORDS = {
    "world-model": ["data_set:=play", "out:=run"],
    "pretrain": ["world_model:=wm", "demonstrations:=demos", "task:=open-drawer", "out:=policy"],
    "reward": ["world_model:=wm", "demonstrations:=demos", "task:=open-drawer", "out:=paid"],
    "finetune": ["world_model:=wm", "demonstrations:=demos", "policy:=base", "reward:=paid", "out:=run"],
}


def node(stage: str, *words: str) -> NodeSpec:
    given = {word.partition(":=")[0]: word for word in (*WORDS[stage], *words)}
    (spec,) = TRAIN.specs([f"stage:={stage}", *given.values()])
    return spec


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as error:
        TRAIN.specs(words)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("stage", "package", "name"),
    [
        ("world-model", "diwa_worldmodel", "/diwa/train"),
        ("pretrain", "diwa_policy", "/diwa/pretrain"),
        ("reward", "diwa_policy", "/diwa/reward"),
        ("finetune", "diwa_policy", "/diwa/finetune"),
    ],
)
def test_each_stage_is_one_node(stage: str, package: str, name: str):
    spec = node(stage)
    assert (spec.package, spec.full_name, spec.on_exit) == (package, name, "shutdown")
    assert node(stage, "namespace:=/lab").full_name == f"/lab/{name.rsplit('/', 1)[1]}"


def test_without_a_stage_a_world_model_is_trained():
    (spec,) = TRAIN.specs(WORDS["world-model"])
    assert spec.package == "diwa_worldmodel"


def declared(stage: Stage) -> Iterator[str]:
    """Names that the node declares as parameters, from its source: running it would need its inputs."""
    module = find_spec(f"{stage.package}.nodes.{stage.executable}")
    assert module is not None and module.origin is not None
    for call in ast.walk(ast.parse(Path(module.origin).read_text())):
        if isinstance(call, ast.Call):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name in ("preset", "config", "settings"):
                yield name
            elif name in ("given", "folder", "word", "choice", "value") and isinstance(call.args[0], ast.Constant):
                yield str(call.args[0].value)


@pytest.mark.parametrize("stage", STAGES)
def test_arguments_are_the_parameters_that_the_node_declares(stage: str):
    heeded = {*STAGES[stage].needs, *STAGES[stage].takes, "settings"}
    assert heeded == set(declared(STAGES[stage]))
    assert set(node(stage, "settings:=a=1").parameters) == heeded


def test_paths_become_absolute_and_numbers_keep_their_kind():
    parameters = node("finetune", "out:=~/run", "threads:=2", "checkpoint_minutes:=1").parameters
    assert parameters["out"] == os.path.expanduser("~/run") and parameters["policy"] == os.path.abspath("base")
    assert (parameters["threads"], parameters["checkpoint_minutes"]) == (2, 1.0)
    assert isinstance(parameters["checkpoint_minutes"], float), "ROS tells 1 from 1.0"
    assert (parameters["preset"], parameters["device"]) == ("paper", "cpu")


def test_settings_are_words_and_left_out_if_there_are_none():
    assert "settings" not in node("pretrain").parameters
    settings = node("pretrain", "settings:=pretraining.epochs=3 policy.kind=gaussian").parameters["settings"]
    assert settings == ("pretraining.epochs=3", "policy.kind=gaussian")
    quoted = node("pretrain", "settings:='policy.mlp=[16, 16]' pretraining.batch=8").parameters["settings"]
    assert quoted == ("policy.mlp=[16, 16]", "pretraining.batch=8")
    assert "as many quotes opened as closed" in refusal(*WORDS["world-model"], "settings:='a=1")


def test_what_a_stage_needs_is_named():
    assert refusal("stage:=pretrain", "world_model:=wm", "out:=p") == (
        "stage:=pretrain needs demonstrations:=... task:=..."
    )
    assert refusal() == "stage:=world-model needs data_set:=... out:=..."


def test_what_a_stage_would_not_heed_is_refused():
    text = refusal("stage:=reward", *WORDS["reward"], "policy:=base")
    assert text.startswith("stage:=reward has no use for policy:=...; it takes world_model, demonstrations, task, out,")
    assert "no use for strict" in refusal("stage:=pretrain", *WORDS["pretrain"], "strict:=true")


def test_unknown_stage_is_refused_with_the_known_ones():
    text = refusal("stage:=finetun")
    assert "did you mean 'finetune'?" in text and all(stage in text for stage in STAGES)


def test_parameter_file_goes_to_the_node():
    assert node("reward", "parameters:=lab.yaml").parameter_files == (os.path.abspath("lab.yaml"),)


def test_launch_file_is_that_of_the_graph():
    text = (Path(__file__).parents[1] / "launch" / f"{TRAIN.name}.launch.py").read_text()
    assert f'graph_description("{TRAIN.name}")' in text

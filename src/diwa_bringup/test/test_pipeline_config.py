"""What a pipeline is told, and which stages and commands follow from it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from diwa_bringup import main as main_module
from diwa_bringup.demo import settings
from diwa_bringup.pipeline import costs
from diwa_bringup.pipeline.command import Pipeline
from diwa_bringup.pipeline.config import STAGES, PipelineConfig, load, to_yaml
from diwa_bringup.pipeline.stages import Stage, plan
from diwa_conventions.errors import UserError
from diwa_conventions.tasks import TASKS

RUN = Path("RUN")


def stages(*words: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan(load(None, words), RUN)}


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    (tmp_path / "bags").mkdir()
    return tmp_path / "bags"


def test_without_data_the_playroom_is_simulated_and_all_stages_run():
    assert tuple(stages()) == STAGES


def test_data_of_ones_own_leave_simulation_and_evaluation_out(bags: Path):
    found = stages(f"play.sources=[{bags}]", "task=pour-tea")
    learned = ["world_model", "world_model_evaluation", "base", "reward", "finetuned"]
    assert list(found) == ["import_play", "inspect_play", *learned, "report"]
    assert found["import_play"].words[:2] == ("import", str(bags))
    assert found["base"].words[2] == "RUN/data/play"  # annotated play is demonstrations too
    assert "pour-tea" in found["base"].words


def test_demonstrations_of_ones_own_are_imported_by_themselves(bags: Path):
    found = stages(f"play.sources=[{bags}]", f"demonstrations.sources=[{bags}]")
    assert found["import_demos"].words == ("import", str(bags), "--out", "RUN/data/demos")
    assert found["base"].words[2] == "RUN/data/demos"


def test_data_set_that_is_imported_already_is_not_imported(bags: Path):
    found = stages(f"play.data={bags}")
    assert "import_play" not in found and "inspect_play" not in found
    assert found["world_model"].words[1] == found["base"].words[2] == str(bags)


def test_playroom_evaluation_of_data_of_ones_own_can_be_asked_for(bags: Path):
    found = stages(f"play.sources=[{bags}]", "evaluation.playroom=true", "evaluation.trials=20", "evaluation.ros=true")
    assert found["evaluation"].words[2:5] == ("RUN/base", "RUN/finetuned/policy", "RUN/finetuned/last")
    assert ("--env", "ros", "--trials", "20") == found["evaluation_ros"].words[8:12]


def test_seed_is_that_of_every_stage_that_draws():
    found = stages("seed=3")
    for name in ("world_model", "base", "reward", "finetuned"):
        assert any(word.endswith(".seed=3") for word in found[name].words), name
    drawn = [found[name].words[found[name].words.index("--seed") + 1] for name in ("play", "attempts", "demos")]
    assert drawn == ["3", "903", "103"]


class Read(Exception):
    """Ends a command when its words are read."""


@pytest.mark.parametrize("name", STAGES)
def test_every_command_is_one_that_diwa_understands(name: str, monkeypatch: pytest.MonkeyPatch):
    parse = main_module._parse

    def read(*given: Any) -> None:
        raise Read(parse(*given))

    monkeypatch.setattr(main_module, "_parse", read)
    stage = stages("preset=paper", "device=cuda", "importing=[--workers=2]", "evaluation.ros_bag=true")[name]
    with pytest.raises(Read) as caught:
        main_module.main(stage.words)
    (command,) = caught.value.args
    assert getattr(command, "out", stage.made) in (stage.made, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["play.fames=3"], "unknown setting 'play.fames'; did you mean 'play.frames'"),
        (["play.frames=1"], "play.frames is 1; expected a whole number"),
        (["skip=[inspect]"], "unknown stage in skip: 'inspect'; did you mean 'inspect_"),
        (["play.sources=[/no/such]"], "play.sources: there is no /no/such"),
        (["play.data=/tmp", "play.sources=[/tmp]"], "play.sources and play.data exclude each other"),
        (["task=fly"], "unknown task 'fly'"),
        (["device=gpu"], "unknown device 'gpu'"),
        (["demonstrations.aim_offset_m=[0.1]"], "expected three numbers"),
        (["play=7"], "play is 7; expected a table"),
    ],
)
def test_mistakes_name_the_key(words: list[str], said: str):
    with pytest.raises(UserError) as caught:
        load(None, words)
    assert said in str(caught.value)


def test_setting_that_a_stage_would_refuse_is_refused_before_anything_runs():
    with pytest.raises(UserError, match=r"training\.stepps"):
        stages("world_model=[training.stepps=3]")
    with pytest.raises(UserError, match=r"fine_tuning\.clipp"):
        stages("fine_tuning=[fine_tuning.clipp=3]")


def test_options_count_more_than_the_file_and_words_more_than_both(tmp_path: Path, bags: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"seed": 1, "task": "close-drawer", "play": {"frames": 100}}))
    config = Pipeline(tmp_path / "run", file, seed=2, play=(bags,), set=("task=open-drawer",)).resolved()
    assert (config.seed, config.task, config.play.frames) == (2, "open-drawer", 100)
    assert config.play.sources == (str(bags),)


def test_yaml_of_a_config_reads_back_as_the_same(tmp_path: Path):
    config = load(None, ["seed=7", "evaluation.ros=false", "skip=[report]"])
    (tmp_path / "pipeline.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "pipeline.yaml", []) == config


def test_twice_the_steps_cost_twice_as_much():
    costs_s = [costs.training_s(load(None, [f"world_model=[training.steps={n}]"])) for n in (1000, 2000)]
    assert costs_s[0] and costs_s[1]
    assert costs_s[1] - costs.START_S == pytest.approx(2 * (costs_s[0] - costs.START_S))


def test_what_was_not_measured_has_no_estimate(bags: Path):
    assert stages("preset=paper")["world_model"].estimate_s is None
    assert stages(f"play.sources=[{bags}]")["import_play"].estimate_s is None


@pytest.mark.parametrize("task", TASKS)
def test_demonstration_of_every_task_fits_into_17_minutes_of_two_cores(task: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(costs, "cores", lambda: 2)
    found = plan(load(None, (), settings(task, seed=1)), RUN)
    assert [stage.name for stage in found] == list(STAGES)
    estimates = [stage.estimate_s for stage in found]
    assert sum(one for one in estimates if one is not None) < 17 * 60 and None not in estimates


def test_demonstration_tries_200_episodes_and_10_trials():
    config = load(None, (), settings("open-drawer", seed=0))
    assert (config.evaluation.episodes, config.evaluation.trials) == (200, 10)
    assert config.demonstrations.aim_offset_m == (0.0, 0.03, 0.02) and isinstance(config, PipelineConfig)

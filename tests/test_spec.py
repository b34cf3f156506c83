"""Every fault of a study file is named, all in one message; nothing is guessed, nothing torch.

The expected words are whole messages: they are what a user reads.
"""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igkd_search import spec, study_file
from igkd_search.errors import StudyError

STUDIES = Path(__file__).resolve().parents[1] / "studies"
MINIMAL: dict[str, Any] = {
    "name": "mine",
    "search": {"space": {"temperature": {"low": 1.0, "high": 10.0}}},
}
TOP = "data, materials, name, overlays, search, teacher, trial"
TRIAL = (
    "alternating_flip, architecture, attention_weight, batch_size, cutout, ema_decay, epochs, "
    "initialisation, kd_weight, label_smoothing, learning_rate, momentum, optimizer, "
    "overlay_exponent_max, overlay_probability, overlay_strength, removed_blocks, resolution, "
    "schedule, temperature, warmup, weight_decay, width"
)
TEACHER = (
    "alternating_flip, architecture, batch_size, checkpoint, checkpoint_sha256, cutout, "
    "ema_decay, epochs, label_smoothing, learning_rate, minimum_accuracy, momentum, optimizer, "
    "schedule, seed, warmup, weight_decay, width"
)
SOURCES = "arrays, cifar10, cifar100, digits, fashion_mnist, folder, svhn"
DATA = "classes, flip, image_size, limit, normalise, path, seed, shift, source, validation"
SEARCH = (
    "checkpoint_every, from, from_trials, hours, latency_budget_ms, max_attempts, min_speedup, "
    "objectives, patience, priority, pruner, pruner_options, sampler, sampler_options, seed, "
    "space, start, students, trials"
)
SAMPLERS = "cmaes, gp, grid, nsga2, qmc, random, tpe"
PRUNERS = "asha, hyperband, median, none, patient, percentile, threshold"
OVERLAYS = "baseline, control, dtype, reduction, rule, steps"
NORMAL = {"low": 1.0, "high": 2.0}


def changed(**changes: Any) -> dict[str, Any]:
    """The minimal study with `search__trials=3` and the like set in it."""
    plain = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        *tables, key = path.split("__")
        table = plain
        for name in tables:
            table = table.setdefault(name, {})
        table[key] = value
    return plain


def study(**changes: Any) -> spec.Study:
    return study_file.check(spec.Study, changed(**changes), "mine.toml")


def fault(**changes: Any) -> str:
    """What is said of a study with these changes, without the name of its file."""
    with pytest.raises(StudyError) as caught:
        study(**changes)
    where, _, said = str(caught.value).partition(": ")
    assert where == "mine.toml"
    return said


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("serach", f"did you mean 'search'?; allowed: {TOP}"),
        ("data__sorce", f"did you mean 'source'?; allowed: {DATA}"),
        ("teacher__lerning_rate", f"did you mean 'learning_rate'?; allowed: {TEACHER}"),
        ("overlays__step", f"did you mean 'steps'?; allowed: {OVERLAYS}"),
        ("materials__target", "did you mean 'targets'?; allowed: max_bytes, targets, views"),
        ("trial__temprature", f"did you mean 'temperature'?; allowed: {TRIAL}"),
        ("search__sampeler", f"did you mean 'sampler'?; allowed: {SEARCH}"),
        (
            "search__space__temperature__hihg",
            "did you mean 'high'?; allowed: choices, high, log, low, step",
        ),
        ("search__space__temprature", "did you mean 'temperature'?; allowed are the fields of"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_legal_one(place: str, said: str) -> None:
    value = NORMAL if place.startswith("search__space__tempr") else 1
    expected = f"{place.replace('__', '.')}: unknown key; {said}"
    assert fault(**{place: value}) == (
        expected + " [trial]" if expected.endswith("fields of") else expected
    )


def test_a_key_that_resembles_none_is_named_with_all_legal_ones() -> None:
    assert (
        fault(materials__qqq=1) == "materials.qqq: unknown key; allowed: max_bytes, targets, views"
    )
    assert fault(search__space__qqq=NORMAL) == (
        "search.space.qqq: unknown key; allowed are the fields of [trial]"
    )


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("data__source", "digts", f"; did you mean 'digits'?; allowed: {SOURCES}"),
        (
            "search__sampler",
            "tpee",
            f"; did you mean 'tpe'?; allowed: {SAMPLERS}",
        ),
        (
            "search__pruner",
            "hyperbnd",
            f"; did you mean 'hyperband'?; allowed: {PRUNERS}",
        ),
        ("trial__optimizer", "adan", "; did you mean 'adam'?; allowed: adam, adamw, sgd"),
        (
            "overlays__control",
            "shufled",
            "; did you mean 'shuffled'?; allowed: dim, none, random, shuffled",
        ),
        (
            "materials__targets",
            "banks",
            "; did you mean 'bank'?; allowed: auto, bank, live, shuffled",
        ),
        ("overlays__baseline", "blank", "; did you mean 'black'?; allowed: black, blur, mean"),
        ("overlays__reduction", "maxi", "; did you mean 'max'?; allowed: max, norm, sum"),
        ("overlays__dtype", "fp32", "; did you mean 'fp16'?; allowed: fp16, uint8"),
    ],
)
def test_an_unknown_value_is_named_with_the_nearest_legal_one(
    place: str, value: str, said: str
) -> None:
    assert fault(**{place: value}) == (f"{place.replace('__', '.')}: unknown value {value!r}{said}")


LEGAL_ARCHITECTURES = (
    "allowed: a classifier of torchvision, such as mobilenet_v2 or resnet18, or an entry point of "
    "igkd_search.architectures (installed: "
)


@pytest.mark.parametrize("place", ["teacher__architecture", "trial__architecture"])
def test_an_unknown_architecture_is_answered_with_the_nearest_and_the_group(place: str) -> None:
    where = place.replace("__", ".")
    assert fault(**{place: "resnet19"}) == (
        f"{where}: unknown value 'resnet19'; did you mean 'resnet18'?; {LEGAL_ARCHITECTURES}none)"
    )
    assert fault(**{place: "/tmp/net.py"}).startswith(f"{where}: unknown value '/tmp/net.py'")


def test_an_installed_entry_point_is_a_legal_architecture(
    own: Callable[..., None],
) -> None:
    own(my_net="package:net")
    found = study(teacher__architecture="my_net", trial__architecture="my_net")
    assert (found.teacher.architecture, found.trial.architecture) == ("my_net", "my_net")
    assert fault(teacher__architecture="my_nett") == (
        "teacher.architecture: unknown value 'my_nett'; did you mean 'my_net'?; "
        f"{LEGAL_ARCHITECTURES}my_net)"
    )


def test_an_entry_point_must_not_shadow_a_name_of_torchvision(own: Callable[..., None]) -> None:
    own(resnet18="package:net")
    study(teacher__architecture="resnet34")
    assert fault(teacher__architecture="resnet18") == (
        "teacher.architecture: 'resnet18' is torchvision's name and that of package:net, an entry "
        "point of igkd_search.architectures: give the latter another name, or uninstall its package"
    )


def test_a_study_with_choices_is_read_back_as_it_was_stored() -> None:
    span = {"choices": [16, 32]}
    found = study(search__space__batch_size=span)
    plain = json.loads(json.dumps(found.model_dump(mode="json")))
    assert plain["search"]["space"]["batch_size"] == span
    assert study_file.check(spec.Study, plain, "stored").question() == found.question()


def test_the_architecture_of_a_student_may_be_searched_by_choices() -> None:
    span = {"choices": ["resnet18", "mobilenet_v2"]}
    found = study(search__space__architecture=span)
    assert found.values_of("architecture") == ["mobilenet_v2", "resnet18"]
    assert study().values_of("architecture") == [None]
    said = fault(search__space__architecture={"choices": ["resnet18", "resnet19"]})
    assert said.startswith("search.space.architecture: 'resnet19' is not allowed: unknown value")
    said = fault(search__space__architecture={"low": 1, "high": 2})
    assert said.partition("2 faults")[2].count("Input should be a valid string") == 2


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ({"low": 2.0, "high": 2.0}, ": low = 2 must be below high = 2"),
        ({"low": 3, "high": 0.5}, ": low = 3 must be below high = 0.5"),
        (
            {"low": 0.0, "high": 1.0, "log": True},
            ": a log range must stay above 0, but low = 0",
        ),
        (
            {"low": -1.0, "high": 1.0, "log": True},
            ": a log range must stay above 0, but low = -1",
        ),
        ({}, ": a range needs low and high, or choices"),
        ({"high": 1.0}, ": a range needs low and high, or choices"),
        (
            {"choices": [1.0, 2.0], "low": 1.0},
            ": choices stand alone, without low, high, log or step",
        ),
        (
            {"choices": [1.0, 2.0], "log": False},
            ": choices stand alone, without low, high, log or step",
        ),
        ({"low": 1.0, "high": 2.0, "log": True, "step": 0.5}, ": log and step exclude each other"),
        ({"low": 1.0, "high": 2.0, "step": 0}, ".step = 0: input should be greater than 0"),
        (
            {"choices": []},
            ".choices = []: list should have at least 1 item after validation, not 0",
        ),
        ({"low": "1", "high": 2.0}, ".low = '1': input should be a valid number"),
        ({"low": float("nan"), "high": 2.0}, ".low = nan: input should be a finite number"),
        (
            {"low": 0.0, "high": 2.0},
            ": 0 is not allowed: Input should be greater than 0",
        ),
        (3, " = 3: input should be a valid dictionary or instance of Range"),
    ],
)
def test_a_range_that_is_none_is_refused(span: Any, said: str) -> None:
    assert fault(search__space__temperature=span) == f"search.space.temperature{said}"


@pytest.mark.parametrize(
    ("name", "span", "said"),
    [
        (
            "epochs",
            {"low": 1, "high": 8},
            "epochs cannot vary, since trials are compared epoch by epoch",
        ),
        (
            "removed_blocks",
            {"low": 3, "high": 7},
            "give choices or a step, since the latency of each student is measured",
        ),
        (
            "width",
            {"low": 0.5, "high": 1.0},
            "give choices or a step, since the latency of each student is measured",
        ),
        (
            "removed_blocks",
            {"low": 3, "high": 7.5, "step": 1},
            "removed_blocks is a whole number, but its range is not",
        ),
        (
            "batch_size",
            {"low": 16, "high": 64, "step": 0.5},
            "batch_size is a whole number, but its range is not",
        ),
        (
            "batch_size",
            {"choices": [16, 24.5]},
            "batch_size is a whole number, but its range is not",
        ),
        (
            "batch_size",
            {"choices": [16, 32.0]},
            "32.0 is not allowed: Input should be a valid integer",
        ),
        (
            "batch_size",
            {"low": 1, "high": 64},
            "1 is not allowed: Input should be greater than or equal to 2",
        ),
        (
            "kd_weight",
            {"low": 0.0, "high": 1.5},
            "1.5 is not allowed: Input should be less than or equal to 1",
        ),
        (
            "learning_rate",
            {"choices": [0.1, "0.2"]},
            "'0.2' is not allowed: Input should be a valid number",
        ),
        (
            "optimizer",
            {"choices": ["sgd", "adan"]},
            "'adan' is not allowed: Input should be 'adam', 'adamw' or 'sgd'",
        ),
    ],
)
def test_a_range_must_fit_its_field(name: str, span: dict[str, Any], said: str) -> None:
    assert fault(**{f"search__space__{name}": span}) == f"search.space.{name}: {said}"


@pytest.mark.parametrize(
    ("space", "point", "said"),
    [
        ({}, {"temperature": 0.5}, "search.start[1].temperature = 0.5 is outside of [1, 10]"),
        ({}, {"temperature": "hot"}, "search.start[1].temperature = hot is outside of [1, 10]"),
        (
            {},
            {"temprature": 2.0},
            "search.start[1].temprature: not a name of search.space; did you mean 'temperature'?",
        ),
        ({}, {"kd_weight": 0.1}, "search.start[1].kd_weight: not a name of search.space"),
        (
            {"optimizer": {"choices": ["sgd", "adam"]}},
            {"optimizer": "adamw"},
            "search.start[1].optimizer = adamw is outside of ['sgd', 'adam']",
        ),
        (
            {"removed_blocks": {"low": 3, "high": 11, "step": 4}},
            {"removed_blocks": 5},
            "search.start[1].removed_blocks = 5 is outside of [3, 11] in steps of 4",
        ),
        (
            {"batch_size": {"low": 16, "high": 64}},
            {"batch_size": 17.5},
            "search.start[1].batch_size: 17.5 is not allowed: Input should be a valid integer",
        ),
        (
            {"kd_weight": {"low": 0.0, "high": 1.0}},
            {"kd_weight": True},
            "search.start[1].kd_weight: True is not allowed: Input should be a valid number",
        ),
    ],
)
def test_a_start_that_the_search_could_not_propose_is_refused(
    space: dict[str, Any], point: dict[str, Any], said: str
) -> None:
    ranges = {**MINIMAL["search"]["space"], **space}
    start = [{"temperature": 2.5}, point]
    assert fault(search__space=ranges, search__start=start) == said


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("trial__epochs", "8", " = '8': input should be a valid integer"),
        ("trial__epochs", True, " = True: input should be a valid integer"),
        ("trial__epochs", 2.5, " = 2.5: input should be a valid integer"),
        ("trial__epochs", 0, " = 0: input should be greater than or equal to 1"),
        ("trial__learning_rate", "fast", " = 'fast': input should be a valid number"),
        ("trial__learning_rate", float("inf"), " = inf: input should be a finite number"),
        ("trial__kd_weight", 1.1, " = 1.1: input should be less than or equal to 1"),
        ("trial__removed_blocks", -1, " = -1: input should be greater than or equal to 0"),
        ("search__trials", 0, " = 0: input should be greater than or equal to 1"),
        ("data__validation", 0, " = 0: input should be greater than 0"),
        ("data__shift", 9, " = 9: input should be less than or equal to 8"),
        ("data", 3, " = 3: input should be a valid dictionary or instance of Data"),
        (
            "search__start",
            {"temperature": 2.0},
            " = {'temperature': 2.0}: input should be a valid list",
        ),
        ("name", "a b", " = 'a b': string should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$'"),
        ("name", "../x", " = '../x': string should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$'"),
        (
            "teacher__checkpoint_sha256",
            "beef",
            " = 'beef': string should match pattern '^[0-9a-f]{64}$'",
        ),
        (
            "search__space",
            {},
            " = {}: dictionary should have at least 1 item after validation, not 0",
        ),
    ],
)
def test_a_value_out_of_place_is_shown_with_what_is_allowed(
    place: str, value: Any, said: str
) -> None:
    assert fault(**{place: value}) == place.replace("__", ".") + said


def test_what_two_keys_say_together_is_checked_too() -> None:
    assert fault(data__source="arrays") == (
        "data: path is missing: the arrays source needs the folder of train_images.npy, "
        "train_labels.npy, test_images.npy and test_labels.npy"
    )
    assert fault(data__source="folder") == (
        "data: path is missing: the folder source needs a folder with one directory a class, or "
        "with train and test, each with one directory a class"
    )
    assert fault(data__image_size=64) == (
        "data: image_size is for source = 'folder'; the images of 'digits' have theirs"
    )
    assert fault(data__validation=1.5) == (
        "data: validation = 1.5 is neither a share below 1 nor a count"
    )
    assert fault(overlays__steps=1, overlays__rule="riemann_left") == (
        "overlays: rule = 'riemann_left' needs steps = 2 or more"
    )
    assert study(overlays__steps=1).overlays.steps == 1


def test_what_must_be_given_is_asked_for() -> None:
    with pytest.raises(StudyError) as caught:
        study_file.check(spec.Study, {}, "mine.toml")
    assert str(caught.value) == (
        "mine.toml: 2 faults\n"
        "  name: missing; it must be given\n"
        "  search: missing; it must be given"
    )
    assert fault(search={}) == "search.space: missing; it must be given"


def test_all_faults_come_in_one_message() -> None:
    space = {
        "temprature": NORMAL,
        "kd_weight": {"low": 1.0, "high": 0.0},
        "temperature": {"low": 0.0, "high": 1.0, "log": True},
    }
    said = fault(data__source="q", trial__epoch=3, search__space=space, search__sampler="gird")
    assert said.splitlines() == [
        "6 faults",
        f"  data.source: unknown value 'q'; allowed: {SOURCES}",
        f"  trial.epoch: unknown key; did you mean 'epochs'?; allowed: {TRIAL}",
        f"  search.sampler: unknown value 'gird'; did you mean 'grid'?; allowed: {SAMPLERS}",
        "  search.space.temprature: unknown key; did you mean 'temperature'?; allowed are the "
        "fields of [trial]",
        "  search.space.kd_weight: low = 1 must be below high = 0",
        "  search.space.temperature: a log range must stay above 0, but low = 0",
    ]


def test_faults_of_ranges_and_of_starts_come_in_one_message() -> None:
    space = {**MINIMAL["search"]["space"], "width": NORMAL, "kd_weight": {"low": 0.0, "high": 2.0}}
    start = [{"temperature": 99.0, "width": 1.0}, {"momentum": 0.5}]
    assert fault(search__space=space, search__start=start).splitlines() == [
        "4 faults",
        "  search.space.width: give choices or a step, since the latency of each student is "
        "measured",
        "  search.space.kd_weight: 2 is not allowed: Input should be less than or equal to 1",
        "  search.start[0].temperature = 99.0 is outside of [1, 10]",
        "  search.start[1].momentum: not a name of search.space",
    ]


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_studies_are_right_and_named_as_their_files(path: Path) -> None:
    found = study_file.read_study(path)
    assert found.name == path.stem
    # which student is fast enough is for the machine to say
    searched = set(found.search.space) - set(spec.SHAPE)
    assert all(set(point) <= searched for point in found.search.start)


@pytest.mark.parametrize("name", ["cifar10", "cifar10_edge", "cifar10_subset", "digits"])
def test_the_question_of_the_paper_begins_with_its_choice(name: str) -> None:
    search = study_file.read_study(STUDIES / f"{name}.toml").search
    distilled = {"temperature", "kd_weight", "overlay_probability", "learning_rate"}
    assert set(search.space) - set(spec.SHAPE) == distilled
    (start,) = search.start
    assert set(start) == distilled
    assert (start["temperature"], start["kd_weight"]) == (2.5, 0.01)


def test_the_study_of_the_paper_is_its_recipe() -> None:
    study = study_file.read_study(STUDIES / "paper.toml")
    for recipe in (study.teacher, study.trial):
        assert (recipe.optimizer, recipe.learning_rate, recipe.schedule) == (
            "adam",
            1e-3,
            "constant",
        )
        assert (recipe.batch_size, recipe.epochs) == (64, 100)
        assert (recipe.warmup, recipe.weight_decay, recipe.ema_decay) == (0, 0, 0)
    assert not study.data.normalise and study.overlays.baseline == "black"
    assert study.overlays.control == study.materials.targets == "shuffled"
    assert (study.trial.temperature, study.trial.overlay_probability) == (2.5, 0.1)
    assert study.search.start == [{"kd_weight": 0.01}]


def test_the_studies_of_cifar10_share_one_teacher() -> None:
    names = ["cifar10", "cifar10_compression", "cifar10_edge"]
    found = [study_file.read_study(STUDIES / f"{name}.toml") for name in names]
    assert all(study.teacher == found[0].teacher for study in found)
    assert all(study.data == found[0].data for study in found)


@pytest.mark.parametrize("name", ["cifar10_teacher", "cifar10_recipe"])
def test_a_search_for_a_recipe_has_no_distillation_in_it(name: str) -> None:
    study = study_file.read_study(STUDIES / f"{name}.toml")
    for field in ("kd_weight", "overlay_probability", "attention_weight"):
        assert study.ends_of(field) == [0.0]
    assert study.trial.removed_blocks == {"cifar10_teacher": 0, "cifar10_recipe": 5}[name]


def test_the_readme_names_every_shipped_study() -> None:
    told = (STUDIES.parent / "README.md").read_text()
    assert [path.name for path in STUDIES.glob("*.toml") if f"  {path.name} " not in told] == []


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_resolved_study_is_the_study(path: Path) -> None:
    found = study_file.read_study(path)
    stored = json.loads(json.dumps(found.model_dump(mode="json")))
    assert study_file.check(spec.Study, stored, "stored") == found
    assert spec.Study.model_validate_json(found.model_dump_json()) == found


def test_a_study_cannot_be_changed_once_it_is_read() -> None:
    found = study()
    with pytest.raises(pydantic.ValidationError):
        setattr(found.search, "trials", 3)  # noqa: B010 - the checker knows it is read-only


def test_budget_and_paths_are_no_part_of_the_question() -> None:
    plain = changed(data__source="arrays", data__path="here", teacher__checkpoint="a.safetensors")
    other = copy.deepcopy(plain)
    other["search"] |= {"trials": 99, "checkpoint_every": 5, "hours": 2, "patience": 4}
    other["search"] |= {"priority": -1, "max_attempts": 2, "from": "theirs", "from_trials": 1}
    other["data"]["path"], other["teacher"]["checkpoint"] = "there", "b.safetensors"
    one, two = (study_file.check(spec.Study, each, "mine.toml") for each in (plain, other))
    assert one != two and one.question() == two.question()
    assert spec.difference(one.question(), two.question()) == []
    assert json.loads(json.dumps(one.question())) == one.question()
    assert one.data.path == "here"  # asking changes nothing


@pytest.mark.parametrize(
    "change",
    [
        {"trial__epochs": 9},
        {"search__seed": 1},
        {"trial__cutout": 2},
        {"trial__attention_weight": 0.5},
        {"search__space__kd_weight": {"low": 0.0, "high": 1.0}},
        {"search__start": [{"temperature": 2.0}]},
        {"data__seed": 1},
        {"overlays__control": "dim"},
        {"search__sampler": "gp"},
        {"search__sampler_options": {"n_startup_trials": 4}},
        {"search__pruner_options": {"bootstrap_count": 1}},
        {"search__latency_budget_ms": 2},
        {"search__min_speedup": 2},
        {"trial__resolution": 16},
        {"search__students": ["mobilenet_v2-5"]},
        {"teacher__checkpoint_sha256": "0" * 64},
        {"name": "other"},
    ],
)
def test_all_else_is_part_of_the_question(change: dict[str, Any]) -> None:
    assert spec.difference(study().question(), study(**change).question())


def test_a_difference_is_shown_place_by_place() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": "x", "e": None}, "same": {"f": 0.5}}
    new = {"a": 2, "b": {"c": [1, 3], "d": "x", "g": True}, "same": {"f": 0.5}}
    assert spec.difference(old, new) == [
        "a: 1 -> 2",
        "b.c: [1, 2] -> [1, 3]",
        "b.e: null -> (absent)",
        "b.g: (absent) -> true",
    ]


def test_a_changed_study_is_told_by_its_keys() -> None:
    before = study(trial__epochs=8).question()
    after = study(trial__epochs=9, search__space__temperature__high=20.0).question()
    assert spec.difference(before, after) == [
        "search.space.temperature.high: 10.0 -> 20.0",
        "trial.epochs: 8 -> 9",
    ]


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        ((0, 0), 2663630496349419396),
        ((0, 1), 6771319882881555609),
        ((1, 0), 7299136359295159292),
        ((0, 0, "final"), 4884020089550141784),
    ],
)
def test_trial_seeds_are_stored_so_they_must_never_change(arguments: Any, seed: int) -> None:
    assert spec.trial_seed(*arguments) == seed


def test_a_trial_seed_is_the_beginning_of_a_sha256() -> None:
    digest = hashlib.sha256(b"trial:3:14").hexdigest()
    assert spec.trial_seed(3, 14) == int(digest[:16], 16) // 2


def test_trial_seeds_differ_by_study_slot_and_purpose() -> None:
    purposes = ("trial", "final", "sampler:1", "sampler:2")
    seeds = {
        spec.trial_seed(study_seed, slot, purpose)
        for study_seed in range(5)
        for slot in range(200)
        for purpose in purposes
    }
    assert len(seeds) == 5 * 200 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
@settings(max_examples=50, deadline=None)
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(plain: dict[str, Any]) -> None:
    backwards = dict(reversed(plain.items()))
    assert spec.fingerprint(plain) == spec.fingerprint(backwards)
    assert spec.fingerprint(plain) != spec.fingerprint({**plain, "one more": 1})


def test_the_values_of_ranges_and_choices() -> None:
    space = {
        "removed_blocks": {"low": 3, "high": 12, "step": 4},
        "width": {"choices": [1.0, 0.5]},
        "temperature": NORMAL,
    }
    found = study(search__space=space, search__trials=7, trial__epochs=3)
    assert found.values_of("removed_blocks") == [3, 7, 11]
    assert all(type(value) is int for value in found.values_of("removed_blocks"))
    assert found.values_of("width") == [0.5, 1.0]
    assert study().values_of("removed_blocks") == [5]
    assert found.planned_epochs() == 21


@given(st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_steps_are_counted_in_spite_of_binary_fractions(count: int, first: int) -> None:
    span = spec.Range(low=first / 10, high=(first + count) / 10, step=0.1)
    values = span.values()
    assert len(values) == count + 1
    assert values == pytest.approx([(first + i) / 10 for i in range(count + 1)])
    assert all(span.contains(value) for value in values)
    assert not any(span.contains(value + 0.05) for value in values)


def exported() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "provenance": {
            "study": "mine",
            "trial": 3,
            "slot": 2,
            "seed": 7,
            "validation_accuracy": 0.97,
            "exported": "2026-01-01T00:00:00+00:00",
            "fingerprints": {"data": "0"},
            "versions": {"torch": "2.9"},
            "latency": {"onnxruntime": {"teacher": 3.8, "student": 2.2}},
        },
    }


def test_an_exported_file_is_checked_like_a_study() -> None:
    found = study_file.check(spec.Exported, exported(), "best.toml")
    assert study_file.check(spec.Exported, found.model_dump(mode="json"), "best.toml") == found
    wrong = exported()
    wrong["provenance"]["trail"] = wrong["provenance"].pop("trial")
    wrong["schema_version"] = 2
    with pytest.raises(StudyError) as caught:
        study_file.check(spec.Exported, wrong, "best.toml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "best.toml: 3 faults"
    assert "  schema_version: unknown value 2; allowed: 1" in lines
    assert "  provenance.trial: missing; it must be given" in lines
    assert any("provenance.trail: unknown key; did you mean 'trial'?" in line for line in lines)


def test_provenance_is_no_part_of_the_question_of_an_exported_file() -> None:
    other = exported()
    other["provenance"]["seed"] = 8
    other["teacher"] = {"checkpoint": "elsewhere.safetensors"}
    one, two = (study_file.check(spec.Exported, each, "best.toml") for each in (exported(), other))
    assert one.question() == two.question()
    other["trial"] = {"temperature": 3.0}
    changed_one = study_file.check(spec.Exported, other, "best.toml").question()
    assert spec.difference(one.question(), changed_one) == ["trial.temperature: 4.0 -> 3.0"]


def test_every_field_has_its_default_in_one_place() -> None:
    # a teacher and a trial share the recipe's fields and their meaning
    assert set(spec.Recipe.model_fields) <= set(spec.Teacher.model_fields)
    assert set(spec.Recipe.model_fields) <= set(spec.TrialConfig.model_fields)
    assert spec.TrialConfig() == study().trial and spec.Teacher() == study().teacher


def test_views_ask_for_a_bank_so_a_live_teacher_contradicts_them() -> None:
    assert fault(materials__views=4, materials__targets="live") == (
        "materials: views = 4 restricts training to banked views, but targets = 'live' asks for no "
        "bank; leave one of them out"
    )


# --- combinations that mean nothing

CIFAR = {"data__source": "cifar10"}
"""A source whose images are mirrored."""
UNMIRRORED = "images of source 'digits' are not mirrored; leave it out"
BOTH = "search__space__alternating_flip"


@pytest.mark.parametrize("source", get_args(spec.Source))
def test_images_are_mirrored_where_that_leaves_their_class_as_it_is(source: str) -> None:
    plain = {"source": source} | ({"path": "x"} if source in ("arrays", "folder") else {})
    legal = source in ("cifar10", "cifar100", "fashion_mnist")
    assert (source in spec.MIRRORED) == legal
    assert spec.Data.model_validate(plain).mirrored == legal
    for flip in (True, False):
        assert spec.Data.model_validate({**plain, "flip": flip}).mirrored == flip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"trial__alternating_flip": True},
            f"trial.alternating_flip: {UNMIRRORED}, or say data.flip = true",
        ),
        (
            {"teacher__alternating_flip": True},
            f"teacher.alternating_flip: {UNMIRRORED}, or say data.flip = true",
        ),
        (
            {BOTH: {"choices": [False, True]}},
            f"trial.alternating_flip: {UNMIRRORED}, or say data.flip = true",
        ),
        # it was said that they are not
        ({"trial__alternating_flip": True, "data__flip": False}, None),
        ({**CIFAR, "data__flip": False, "teacher__alternating_flip": True}, None),
        (
            {**CIFAR, "trial__alternating_flip": True, "materials__views": 4},
            "trial.alternating_flip: materials.views = 4 restricts each image to views whose "
            "flips are drawn once; leave one of them out",
        ),
        (
            {**CIFAR, BOTH: {"choices": [False, True]}, "materials__views": 4},
            "trial.alternating_flip: materials.views = 4 restricts each image to views whose "
            "flips are drawn once; leave one of them out",
        ),
        (
            {"data__normalise": False},
            "overlays.baseline = 'mean': with data.normalise = false no mean colour is taken; type "
            'baseline = "black", or "blur"',
        ),
        (
            {"trial__attention_weight": 0.5, "trial__architecture": "resnet18"},
            "trial.attention_weight compares the maps of the same block in both networks, so "
            "trial.architecture = resnet18 must be teacher.architecture = mobilenet_v2; or type "
            "attention_weight = 0",
        ),
        (
            {
                "search__space__attention_weight": {"low": 0.0, "high": 1.0},
                "search__space__architecture": {"choices": ["mobilenet_v2", "resnet34"]},
            },
            "trial.attention_weight compares the maps of the same block in both networks, so "
            "trial.architecture = resnet34 must be teacher.architecture = mobilenet_v2; or type "
            "attention_weight = 0",
        ),
        (
            {"trial__initialisation": "teacher", "trial__width": 2.0},
            "trial.initialisation = 'teacher' copies blocks, so trial.width = 2 must be "
            "teacher.width = 1",
        ),
        (
            {"trial__initialisation": "teacher", "teacher__width": 0.5},
            "trial.initialisation = 'teacher' copies blocks, so trial.width = 1 must be "
            "teacher.width = 0.5",
        ),
        (
            {"trial__initialisation": "teacher", "trial__architecture": "resnet18"},
            "trial.initialisation = 'teacher' copies blocks, so trial.architecture = resnet18 "
            "must be teacher.architecture = mobilenet_v2",
        ),
        (
            {
                "search__space__initialisation": {"choices": ["random", "teacher"]},
                "search__space__width": {"choices": [1.0, 2.0]},
            },
            "trial.initialisation = 'teacher' copies blocks, so trial.width = 2 must be "
            "teacher.width = 1",
        ),
    ],
)
def test_a_combination_that_means_nothing_is_refused_with_the_reason(
    changes: dict[str, Any], said: str | None
) -> None:
    found = fault(**changes)
    if said is None:
        assert found.endswith("are not mirrored; leave it out")
    else:
        assert found == said


@pytest.mark.parametrize(
    "changes",
    [
        {**CIFAR, "trial__alternating_flip": True, "teacher__alternating_flip": True},
        {"data__flip": True, "trial__alternating_flip": True},
        # the teacher learns from all views whatever the trials do
        {**CIFAR, "teacher__alternating_flip": True, "materials__views": 4},
        {BOTH: {"choices": [False]}},
        {"trial__attention_weight": 0.5, "trial__width": 2.0},
        {"trial__attention_weight": 0.5, "trial__architecture": "mobilenet_v2"},
        {"trial__architecture": "resnet18", "search__space__attention_weight": {"choices": [0.0]}},
        {"trial__initialisation": "teacher", "trial__width": 0.5, "teacher__width": 0.5},
        {"trial__initialisation": "random", "trial__width": 2.0},
    ],
)
def test_a_combination_that_means_something_is_accepted(changes: dict[str, Any]) -> None:
    assert study(**changes)


def test_an_exported_file_is_held_to_the_same_combinations() -> None:
    wrong = exported()
    wrong["trial"] = {"alternating_flip": True}
    wrong["data"] = {"source": "digits"}
    with pytest.raises(StudyError, match=r"trial\.alternating_flip: images of source 'digits'"):
        study_file.check(spec.Exported, wrong, "best.toml")


def test_how_often_a_checkpoint_is_written_is_at_least_once_in_so_many_epochs() -> None:
    assert study().search.checkpoint_every == 1
    assert "checkpoint_every" not in study(search__checkpoint_every=3).question()["search"]
    assert fault(search__checkpoint_every=0).startswith("search.checkpoint_every = 0: input should")


# --- what [search] says


def search_of(**keys: Any) -> spec.Search:
    return study(**{f"search__{key}": value for key, value in keys.items()}).search


def fault_of(**keys: Any) -> str:
    return fault(**{f"search__{key}": value for key, value in keys.items()})


def test_a_question_that_was_stored_before_there_were_these_keys_is_the_same() -> None:
    stored = study().model_dump(mode="json")
    stored["search"] = {
        "trials": 20,
        "sampler": "tpe",
        "pruner": "hyperband",
        "seed": 0,
        "checkpoint_every": 1,
        "space": {
            "temperature": {"low": 1.0, "high": 10.0, "log": False, "step": None, "choices": None}
        },
        "start": [],
    }
    again = study_file.check(spec.Study, json.loads(json.dumps(stored)), "stored")
    assert again == study()
    assert spec.difference(again.question(), study().question()) == []


def test_a_name_that_is_a_word_of_python_is_stored_as_it_is_written() -> None:
    found = search_of(**{"from": "theirs"})
    assert (found.warm_start, found.from_trials) == ("theirs", 3)
    plain = json.loads(json.dumps(study(search__from="theirs").model_dump(mode="json")))
    assert plain["search"]["from"] == "theirs" and "warm_start" not in plain["search"]
    assert study_file.check(spec.Study, plain, "stored").search == found
    assert fault_of(warm_start="x").startswith("search.warm_start: unknown key")
    assert fault_of(**{"from": 3}) == "search.from = 3: input should be a valid string"
    assert fault_of(**{"from": "mine"}) == (
        "search.from: a study cannot begin with what itself has found"
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hours", 0, " = 0: input should be greater than 0"),
        ("patience", 0, " = 0: input should be greater than or equal to 1"),
        ("max_attempts", 0, " = 0: input should be greater than or equal to 1"),
        ("from_trials", 0, " = 0: input should be greater than or equal to 1"),
        ("priority", 0.5, " = 0.5: input should be a valid integer"),
        ("latency_budget_ms", 0, " = 0: input should be greater than 0"),
    ],
)
def test_limits_are_positive(key: str, value: Any, said: str) -> None:
    assert fault_of(**{key: value}) == f"search.{key}{said}"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"sampler_options": {"n_startup_trails": 3}},
            ".sampler_options.n_startup_trails: unknown key; did you mean 'n_startup_trials'?; "
            "allowed: constant_liar, group, multivariate, n_ei_candidates, n_startup_trials",
        ),
        (
            {"sampler": "qmc", "sampler_options": {"n_startup_trials": 3}},
            ".sampler_options.n_startup_trials: unknown key; allowed: qmc_type, scramble",
        ),
        (
            {"sampler": "qmc", "sampler_options": {"qmc_type": "sobel"}},
            ".sampler_options.qmc_type: unknown value 'sobel'; did you mean 'sobol'?; allowed: "
            "halton, sobol",
        ),
        (
            {"sampler": "random", "sampler_options": {"seed": 3}},
            ".sampler_options.seed: unknown key; allowed: nothing",
        ),
        (
            {"sampler": "nsga2", "sampler_options": {"population_size": 1}},
            ".sampler_options.population_size = 1: input should be greater than or equal to 2",
        ),
        (
            {"sampler_options": {"group": True, "multivariate": False}},
            ".sampler_options: group = true needs multivariate = true",
        ),
        (
            {"sampler": "cmaes", "sampler_options": {"lr_adapt": True, "with_margin": True}},
            ".sampler_options: lr_adapt and with_margin exclude each other; leave one of them",
        ),
        (
            {"pruner": "asha", "pruner_options": {"min_resorce": 2}},
            ".pruner_options.min_resorce: unknown key; did you mean 'min_resource'?; allowed: "
            "bootstrap_count, min_early_stopping_rate, min_resource, reduction_factor",
        ),
        (
            {"pruner": "percentile"},
            ".pruner_options.percentile: missing; it must be given",
        ),
        ({"pruner": "patient"}, ".pruner_options.patience: missing; it must be given"),
        (
            {"pruner": "threshold"},
            ".pruner_options: threshold needs lower, the accuracy below which a trial is pruned "
            "(or upper); type lower = 0.5, say",
        ),
        (
            {"pruner": "threshold", "pruner_options": {"lower": 0.75, "upper": 0.5}},
            ".pruner_options: lower = 0.75 is above upper = 0.5",
        ),
        (
            {"pruner": "patient", "pruner_options": {"patience": 1, "wrapped_pruner": "patient"}},
            ".pruner_options.wrapped_pruner: unknown value 'patient'; allowed: asha, hyperband, "
            "median, none, percentile, threshold",
        ),
        (
            {
                "pruner": "patient",
                "pruner_options": {
                    "patience": 1,
                    "wrapped_pruner": "median",
                    "wrapped_pruner_options": {"n_min_trial": 1},
                },
            },
            ".pruner_options.wrapped_pruner_options.n_min_trial: unknown key; did you mean "
            "'n_min_trials'?; allowed: interval_steps, n_min_trials, n_startup_trials, "
            "n_warmup_steps",
        ),
        (
            {"pruner_options": {"min_resource": 8}},
            ".pruner_options.min_resource = 8: trials of 8 epochs leave nothing to prune after "
            'that; at most 7, or type pruner = "none"',
        ),
        (
            {
                "pruner": "patient",
                "pruner_options": {
                    "patience": 2,
                    "wrapped_pruner": "asha",
                    "wrapped_pruner_options": {"min_resource": 20},
                },
            },
            ".pruner_options.wrapped_pruner_options.min_resource = 20: trials of 8 epochs leave "
            'nothing to prune after that; at most 7, or type pruner = "none"',
        ),
        (
            {"sampler": "cmaes", "space": {"optimizer": {"choices": ["sgd", "adam"]}}},
            ".sampler = 'cmaes' models numbers, and the space has only choices; type sampler = "
            '"tpe"',
        ),
        (
            {"sampler_options": 3},
            ".sampler_options = 3: input should be a valid dictionary or instance of Tpe",
        ),
    ],
)
def test_what_a_sampler_or_pruner_is_told_is_checked(keys: dict[str, Any], said: str) -> None:
    assert fault_of(**keys) == f"search{said}"


def test_of_an_unknown_sampler_the_name_alone_is_said() -> None:
    said = fault_of(sampler="tpee", sampler_options={"n_startup_trials": 3})
    assert said == f"search.sampler: unknown value 'tpee'; did you mean 'tpe'?; allowed: {SAMPLERS}"


@pytest.mark.parametrize(
    "keys",
    [
        {"sampler": "gp", "sampler_options": {"n_startup_trials": 4}},
        {"pruner": "threshold", "pruner_options": {"lower": 0.5}},
        {
            "pruner": "patient",
            "pruner_options": {
                "patience": 2,
                "wrapped_pruner": "percentile",
                "wrapped_pruner_options": {"percentile": 25},
            },
        },
        {"objectives": ["accuracy"], "latency_budget_ms": 2, "students": ["mobilenet_v2-5"]},
    ],
)
def test_options_are_read_back_as_they_were_stored(keys: dict[str, Any]) -> None:
    found = study(**{f"search__{key}": value for key, value in keys.items()})
    stored = json.loads(json.dumps(found.model_dump(mode="json")))
    assert study_file.check(spec.Study, stored, "stored") == found
    assert spec.Study.model_validate_json(found.model_dump_json()) == found


# --- two objectives

PARETO: dict[str, Any] = {
    "objectives": ["accuracy", "latency_ms"],
    "space": {"removed_blocks": {"choices": [3, 5]}},
}


def test_with_two_objectives_nothing_is_pruned_unless_somebody_asks_for_it() -> None:
    found = study(**{f"search__{key}": value for key, value in PARETO.items()})
    assert found.search.pruner == "none" and found.search.is_pareto
    assert search_of(**PARETO, pruner="none") == found.search
    stored = json.loads(json.dumps(found.model_dump(mode="json")))
    assert study_file.check(spec.Study, stored, "stored") == found
    for stated in ({"pruner": "hyperband"}, {"pruner_options": {"min_resource": 2}}):
        assert fault_of(**PARETO, **stated) == (
            "search.pruner = 'hyperband': Optuna prunes by one objective, and here are two; leave "
            "it out, or bound the latency instead: latency_budget_ms or min_speedup"
        )
    assert search_of().pruner == "hyperband" and not search_of().is_pareto


def test_objectives_are_one_or_two() -> None:
    for wrong in (["latency_ms"], ["latency_ms", "accuracy"], ["accuracy"] * 2, []):
        assert fault_of(objectives=wrong) == (
            f'search.objectives = {json.dumps(wrong)}: allowed are ["accuracy"] and '
            '["accuracy", "latency_ms"]'
        )
    assert fault_of(objectives=["accuracy", "latency"]) == (
        "search.objectives[1]: unknown value 'latency'; did you mean 'latency_ms'?; allowed: "
        "accuracy, latency_ms"
    )


def test_two_objectives_need_a_sampler_for_them_and_students_that_differ() -> None:
    assert fault_of(**PARETO, sampler="cmaes").splitlines()[-1].strip() == (
        "search.sampler = 'cmaes' seeks one objective, and here are two; type sampler = "
        '"nsga2", "tpe" or "gp"'
    )
    assert fault_of(objectives=PARETO["objectives"]) == (
        "search.objectives: every trial has the latency of mobilenet_v2-5; let architecture, "
        "removed_blocks, width, resolution vary in search.space, or leave latency_ms out"
    )


# --- grids and lists of students

GRID: dict[str, Any] = {
    "sampler": "grid",
    "space": {
        "kd_weight": {"low": 0.0, "high": 0.5, "step": 0.5},
        "batch_size": {"choices": [16, 32]},
        "removed_blocks": {"low": 3, "high": 5, "step": 2},
    },
}


def test_a_grid_knows_how_many_points_it_has() -> None:
    found = study(**{f"search__{key}": value for key, value in GRID.items()}, search__trials=8)
    assert found.grid_size() == 8
    assert found.axes() == {
        "kd_weight": [0.0, 0.5],
        "batch_size": [16, 32],
        "removed_blocks": [3, 5],
    }
    assert study().grid_size() is None
    whole = study(search__space={"batch_size": {"low": 16, "high": 18}})
    assert whole.axes() == {"batch_size": [16, 17, 18]}


def test_a_budget_above_the_points_of_a_grid_is_refused() -> None:
    said = (
        "the grid has 8 points, trials = 20: each is visited once, so type trials = 8 or less, or "
        "give the space more values"
    )
    assert fault_of(**GRID) == said
    found = study(**{f"search__{key}": value for key, value in GRID.items()}, search__trials=8)
    spec.check_budget(found, 8)
    with pytest.raises(StudyError) as caught:
        spec.check_budget(found, 20)
    assert str(caught.value) == f"study 'mine': {said}"
    spec.check_budget(study(), 10**6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"space": {"temperature": {"low": 1.0, "high": 9.0}}},
            "search.space.temperature: a grid needs choices, or low, high and step; type step = 2, "
            'say, or sampler = "qmc"',
        ),
        (
            {"space": {"learning_rate": {"low": 1e-3, "high": 1.0, "log": True}}},
            "search.space.learning_rate: a grid needs choices, or low, high and step; type choices "
            '= [0.001, 0.01, 0.1, 1], say, or sampler = "qmc"',
        ),
        (
            {"start": [{"kd_weight": 0.5}], "trials": 8},
            "search.start[0]: a point of a grid names every field of the space; missing: "
            "batch_size, removed_blocks",
        ),
        (
            {"start": [{"kd_weight": 0.5, "batch_size": 16, "removed_blocks": 3}] * 2, "trials": 8},
            "search.start[1]: a grid visits each of its points once",
        ),
        (
            {"from": "theirs", "trials": 8},
            "search.from: a grid visits each of its points once; leave it out",
        ),
        (
            {"space": {"batch_size": {"low": 2, "high": 200_002}}},
            "search.sampler: the grid has 200001 points, more than 100000; type fewer choices, "
            'larger steps, or sampler = "random"',
        ),
    ],
)
def test_a_grid_that_cannot_be_visited_is_refused(changes: dict[str, Any], said: str) -> None:
    assert fault_of(**{**GRID, **changes}) == said


SHAPED: dict[str, Any] = {
    "space": {
        "removed_blocks": {"low": 3, "high": 7, "step": 2},
        "width": {"low": 0.1, "high": 0.5, "step": 0.2},
    }
}


def test_students_are_the_product_of_the_fields_that_shape_them_or_a_list() -> None:
    every = [f"mobilenet_v2-{blocks}-x{width}" for blocks in (3, 5, 7) for width in (0.1, 0.3, 0.5)]
    found = study(search__space=SHAPED["space"])
    assert [each.name for each in found.students()] == every
    listed = study(search__space=SHAPED["space"], search__students=[every[4], every[0]])
    assert [each.name for each in listed.students()] == [every[0], every[4]]
    assert [each.name for each in study().students()] == ["mobilenet_v2-5"]
    # in spite of binary fractions
    assert [each.name for each in found.agreeing({"width": 0.3})] == every[1::3]
    assert [each.name for each in listed.agreeing({"width": 0.3, "kd_weight": 1})] == [every[4]]


def test_a_list_of_students_names_those_of_the_space() -> None:
    assert fault_of(**SHAPED, students=["mobilenet_v2-3-x0.4"]) == (
        "search.students: 'mobilenet_v2-3-x0.4' is no student of the space; did you mean "
        "'mobilenet_v2-3-x0.5'?; allowed: mobilenet_v2-3-x0.1, mobilenet_v2-3-x0.3, "
        "mobilenet_v2-3-x0.5, mobilenet_v2-5-x0.1, mobilenet_v2-5-x0.3, mobilenet_v2-5-x0.5, "
        "mobilenet_v2-7-x0.1, mobilenet_v2-7-x0.3, mobilenet_v2-7-x0.5"
    )
    start = [{"removed_blocks": 3}, {"removed_blocks": 5}]
    assert fault_of(**SHAPED, students=["mobilenet_v2-3-x0.5"], start=start) == (
        "search.start[1]: no student of search.students is so"
    )


def test_a_resolution_is_part_of_a_student_s_name_where_it_has_one() -> None:
    assert spec.Architecture("mobilenet_v2", 5, 0.5, 16).name == "mobilenet_v2-5-x0.5-r16"
    assert spec.Architecture("mobilenet_v2", 5, 1.0, 32).name == "mobilenet_v2-5-r32"
    assert spec.Architecture("mobilenet_v2", 5).name == "mobilenet_v2-5"
    found = study(search__space__resolution={"low": 16, "high": 32, "step": 8})
    assert [each.resolution for each in found.students()] == [16, 24, 32]
    assert spec.is_whole("resolution") and not spec.is_whole("width")
    chosen = study(search__space__resolution={"choices": [32, 12]})
    assert [each.name for each in chosen.students()] == ["mobilenet_v2-5-r12", "mobilenet_v2-5-r32"]


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ({"low": 16, "high": 32}, ": give choices or a step, since the latency of each student"),
        ({"low": 16, "high": 32, "step": 0.5}, ": resolution is a whole number, but its range is"),
        ({"choices": [2, 32]}, ": 2 is not allowed: Input should be greater than or equal to 4"),
        ({"choices": [16.5]}, ": resolution is a whole number, but its range is not"),
    ],
)
def test_a_resolution_varies_in_whole_steps(span: dict[str, Any], said: str) -> None:
    assert fault(search__space__resolution=span).startswith(f"search.space.resolution{said}")


def test_bounds_on_latency_are_said_in_words() -> None:
    assert spec.bounds_in_words({}) == spec.bounds_in_words({"latency_budget_ms": None}) == ""
    both = {"latency_budget_ms": 0.5, "min_speedup": 10.0}
    assert spec.bounds_in_words(both) == (
        "within 0.5 ms an image and at least 10 times as fast as the teacher"
    )

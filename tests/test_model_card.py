"""A card says what its result holds, and nothing else; its five lines of Python classify."""

import contextlib
import copy
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from igkd_search import ablation, deployment, model_card, models, spec
from tests import tiny

STATS = {"median_ms": 1.5, "iqr_ms": 0.2, "n": 30}
FAST = {"median_ms": 0.5, "iqr_ms": 0.1, "n": 30}
NAMES = ["a cat", "b`c", "| <img src=x>"]
SEEDS = [
    {"seed": 11, "accuracy": 0.95, "reads": 1},
    {"seed": 12, "accuracy": 0.97, "reads": 1},
]


def spread(values: list[float]) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "n": len(values)}


def arm(trial: spec.TrialConfig, seeds: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    accuracies = [each["accuracy"] for each in seeds]
    return {
        "accuracy": spread(accuracies),
        "seeds": seeds,
        "trial": trial.model_dump(mode="json"),
        "control": "none",
        "targets": "bank",
        "faithfulness": None,
        **fields,
    }


def result(seeds: int = 2, **trial: Any) -> dict[str, Any]:
    """What `igkd train` writes of a tiny study, without ablation, latency and faithfulness."""
    run = tiny.study(Path("images"), trial={"kd_weight": 0.3, "temperature": 2.5, **trial})
    configuration = tiny.exported(
        run, versions={"torch": "2.15.0", "numpy": "2.4.6"}, fingerprints={"data": "ab" * 32}
    )
    own = arm(run.trial, SEEDS[:seeds])
    return {
        "schema_version": 2,
        "asked": "cd" * 32,
        "configuration": configuration.model_dump(mode="json"),
        "fingerprints": {"data": "ab" * 32, "targets": "live"},
        "test": {"images": tiny.TEST, "reads": 1, "duplicates": 0},
        "classes": NAMES,
        "image_shape": [3, tiny.SIZE, tiny.SIZE],
        "rows": tiny.TRAIN,
        "teacher": {
            "accuracy": 0.99,
            "parameters": 4000,
            "macs": 9_000_000,
            "pytorch": STATS,
            "onnxruntime": STATS,
        },
        "student": {
            "arm": "kd+ig",
            "architecture": tiny.STUDENT,
            "accuracy": own["accuracy"],
            "seeds": own["seeds"],
            "shipped": SEEDS[0],
            "compression": 4.0,
            "parameters": 1000,
            "macs": 3_000_000,
            "pytorch": FAST,
            "onnxruntime": FAST,
        },
        "arms": {"kd+ig": own},
        "ablation": None,
        "tuning": None,
        "deployment": {
            "onnx": {
                "file": "student.onnx",
                "bytes": 2_355_747,
                "opset": 20,
                "parity": 6.6e-7,
                "accuracy": 0.95,
            },
            "int8": {
                "file": "student.int8.onnx",
                "bytes": 87_506,
                "accuracy": 0.94,
                "calibration_images": 75,
            },
        },
        "latency": None,
        "faithfulness": None,
        "machine": {"cpu": "A CPU", "cores": 2, "torch": "2.15.0+cpu", "onnxruntime": "1.32.0"},
    }


def full() -> dict[str, Any]:
    """The same with three arms, tuned, and everything measured."""
    found = result()
    plain = spec.TrialConfig.model_validate(
        {**found["arms"]["kd+ig"]["trial"], "kd_weight": 0.0, "overlay_probability": 0.0}
    )
    for name in ("baseline", "kd:shuffled"):
        found["arms"][name] = arm(plain, SEEDS)
    accuracies = {
        name: [each["accuracy"] - 0.01 * place for each in one["seeds"]]
        for place, (name, one) in enumerate(found["arms"].items())
    }
    return found | {
        "ablation": ablation.summarise(accuracies, images=tiny.TEST, tuned=4, winner="kd+ig"),
        "tuning": {"trials": 4, "epochs": 2, "arms": {}},
        "latency": {
            "machine": found["machine"],
            "models": {},
            "rows": [
                {
                    "engine": "onnxruntime-int8",
                    "batch": 64,
                    "threads": 2,
                    "teacher": STATS,
                    "student": FAST,
                    "ratio": 3.0,
                }
            ],
            "skipped": [{"engine": "compiled", "reason": "there is no compiler here"}],
        },
        "faithfulness": {"images": 12, "words": ["It looks where its teacher looks."]},
    }


def bare() -> dict[str, Any]:
    """One seed of the baseline, which needs neither teacher nor maps."""
    found = result(1, kd_weight=0.0, overlay_probability=0.0, resolution=4)
    found["student"]["arm"] = "baseline"
    return found | {"arms": {"baseline": found["arms"]["kd+ig"]}}


def sections(card: str) -> dict[str, str]:
    found = re.split(r"^#+ (.*)$", card.partition("---\n\n")[2], flags=re.M)
    return dict(zip(found[1::2], found[2::2], strict=True))


@pytest.mark.parametrize("made", [result, full, bare])
def test_a_card_has_no_empty_section_and_no_word_for_nothing(made: Any) -> None:
    card = model_card.render(made())
    card = card.replace("run(None, {", "")  # which is Python
    found = sections(card)
    assert all(text.strip() or title == "Results" for title, text in found.items())
    for word in (r"\bNone\b", r"\bnan\b", "null", "undefined", "{{", "{%", r"\n\n\n"):
        assert not re.search(word, card), word
    assert card.endswith("card.\n")
    assert not re.search(r"[ \t]+$", card, flags=re.M)


@pytest.mark.parametrize("made", [result, full, bare])
def test_the_front_matter_is_yaml_that_states_no_licence_it_does_not_know(made: Any) -> None:
    _, front, _ = model_card.render(made()).split("---\n", 2)
    found = yaml.safe_load(front)
    assert (found["license"], found["pipeline_tag"]) == ("other", "image-classification")
    (told,) = found["model-index"][0]["results"]
    assert told["metrics"][0]["value"] == 0.95 and told["dataset"]["name"] == "arrays"


def test_figures_are_told_with_n_and_spread() -> None:
    card = model_card.render(result())
    assert "| student, mean +- sd of 2 seeds | 96.00% +- 1.41 | 79.76% to 99.26% |" in card
    assert "| `student.int8.onnx` | 94.00% |" in card
    assert "| `student.int8.onnx` | 88 kB | int8, calibrated on 75 training images |" in card
    assert "first of 2 seeds, fixed before training" in card
    assert (
        "| ONNX Runtime | 1 | 1 | 1.50 ms (0.200 ms) | 0.500 ms (0.100 ms) | 3.00\u00d7 |" in card
    )
    assert "what each part brings is not shown here" in card
    assert "`a cat`, ``b`c``, `| <img src=x>`" in card
    assert "2.15.0, numpy" in card and "final training" not in card


def test_of_one_seed_nothing_is_said_of_others() -> None:
    card = model_card.render(bare())
    assert "One student was trained, and it is the one shipped." in card
    assert "+-" not in card and "seeds" not in card and "how far another one would end" in card
    assert (
        "No soft targets: the student learns from labels alone" in card
        and "No attribution overlays" in card
    )
    assert "it brings images to 4 pixels itself" in card and "and the resize" in card


def test_what_was_measured_is_there() -> None:
    card, found = model_card.render(full()), full()["ablation"]
    assert ablation.markdown(found).strip() in card
    assert "Each arm had a search of its own, 4 trials of 2 epochs." in card
    assert "| ONNX Runtime, int8 | 64 | 2 |" in card
    assert "compiled was not measured: there is no compiler here." in card
    assert "- It looks where its teacher looks." in card
    assert "was not measured" not in sections(card)["Limits"]


@pytest.mark.parametrize(
    ("control", "targets", "said"),
    [
        ("shuffled", "bank", "as a control, the map of another image"),
        ("random", "bank", "as a control, its map with the values at random places"),
        ("dim", "bank", "nothing, and only darkened, as a control"),
        ("none", "shuffled", "as a control each image learns from the targets of another"),
    ],
)
def test_a_control_is_called_one(control: str, targets: str, said: str) -> None:
    found = result()
    found["arms"]["kd+ig"] |= {"control": control, "targets": targets}
    assert said in model_card.render(found)


def test_duplicates_and_repeated_reads_are_limits() -> None:
    found = result()
    found["test"] |= {"duplicates": 3, "reads": 2}
    card = model_card.render(found)
    assert "3 test images occur, pixel for pixel, in the training part too." in card
    assert "The test set was read 2 times" in card and "was read once" not in card


def test_a_result_of_before_a_field_came_is_told_as_well() -> None:
    found = copy.deepcopy(result())
    del found["arms"]["kd+ig"]["trial"]["resolution"]
    assert model_card.render(found) == model_card.render(result())


def test_the_five_lines_classify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    student = models.build_student(
        spec.Architecture("mobilenet_v2", 17, 0.5), tiny.CLASSES, (3, tiny.SIZE, tiny.SIZE)
    )
    pixels, _ = tiny.images(12, 1)
    half = np.full(3, 0.5, np.float32)
    deployment.write(student.eval(), half, half, pixels, NAMES, tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", model_card.render(result()), flags=re.S)
    assert code.count("\n") == 5
    monkeypatch.chdir(tmp_path)
    for name in ("student.onnx", "student.int8.onnx"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code.replace("student.onnx", name), "card", "exec"), {})
        assert printed.getvalue().strip() in {str([name]) for name in NAMES}


def edited(**changes: Any) -> dict[str, Any]:
    """A result with a changed provenance or validation."""
    found = result()
    for section, values in changes.items():
        found["configuration"][section] = (found["configuration"][section] or {}) | values
    return found


def flat(card: str) -> str:
    return " ".join(card.split())


def test_a_trial_is_named_as_the_source_only_where_it_was_trained_so() -> None:
    own, other = result(), result()
    other["student"]["as_exported"] = False
    assert "from trial 3 of study `tiny`, which had 90.00% on validation images" in flat(
        model_card.render(own)
    )
    said = flat(model_card.render(other))
    assert "made from trial 3 of study `tiny`, but with other settings than that trial had" in said
    assert "which had 90.00%" not in said


def test_by_what_the_configuration_was_chosen() -> None:
    flattered = "the best of several trials flatters itself (90.00%)"
    shown = {"images": 15, "accuracy": 0.9, "low": 0.8, "high": 0.95, "complete": 5}
    assert flattered in flat(model_card.render(edited(validation=shown)))
    alone = flat(model_card.render(edited(validation=shown | {"complete": 1})))
    assert "flatters" not in alone
    again = [{"trial": number, "searched": 0.9, "accuracies": [0.8]} for number in (3, 4)]
    said = flat(model_card.render(edited(validation=shown | {"reruns": again})))
    assert "among 2 leading trials of the search by its mean validation accuracy" in said
    tuned = result() | {
        "tuning": {"trials": 4, "epochs": 2, "arms": {"kd+ig": {"parameters": {"temperature": 2}}}}
    }
    assert "in a search of the arm" in flat(model_card.render(tuned))


def test_a_teacher_or_data_that_are_not_the_search_s_are_told() -> None:
    imported = model_card.render(edited(provenance={"teacher_trained": False}))
    assert "The teacher was read from a file" in imported
    assert "with the teacher of the search" not in flat(imported)
    other = result()
    other["fingerprints"]["data"] = "ef" * 32
    assert "The training part is another than that of the search" in model_card.render(other)


def test_what_was_added_after_the_test_set_was_read_is_told() -> None:
    asked = [{"arms": ["kd+ig"], "seeds": 1}, {"arms": ["kd+ig", "kd"], "seeds": 2}]
    said = flat(model_card.render(result() | {"history": asked}))
    assert "first kd+ig with 1 seed; then kd+ig, kd with 2 seeds" in said
    assert "after all training" not in said
    assert "after all training" in flat(model_card.render(result() | {"history": asked[:1]}))


def test_times_of_a_busy_machine_are_called_so() -> None:
    found = full()
    found["latency"]["machine"]["quiet"] = False
    assert "so these times are too long" in model_card.render(found)
    assert "so these times are too long" not in model_card.render(full())


def test_arms_that_had_nothing_to_search_are_named() -> None:
    found = full()
    arms = {"baseline": {"parameters": {}}, "kd+ig": {"parameters": {"temperature": 2.0}}}
    found["tuning"] = {"trials": 4, "epochs": 2, "arms": arms}
    assert "Each arm but baseline had a search of its own" in flat(model_card.render(found))


@pytest.mark.parametrize(
    ("share", "shown"), [(1.49e-5, "2e-05"), (1e-6, "1e-06"), (1.05e-6, "2e-06"), (0.0, "0")]
)
def test_parity_is_rounded_up(share: float, shown: str) -> None:
    assert model_card._parity(share) == shown


def test_an_accuracy_of_the_search_is_that_after_its_epochs() -> None:
    found = result()
    epochs = found["arms"]["kd+ig"]["trial"]["epochs"]
    for searched, after in ((epochs, ""), (epochs + 5, f" after {epochs + 5} epochs")):
        found["configuration"]["validation"] = {"epochs": searched, "complete": 2}
        told = f"which had 90.00% on validation images{after}."
        assert told in flat(model_card.render(found))

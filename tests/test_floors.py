"""The floors of the house: a module imports only from strictly lower ones, so nothing goes round.

Imports are read from the source, those inside functions and under TYPE_CHECKING too.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "igkd_search"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

FLOORS = {
    "errors": 0,
    "documents": 0,
    "console": 0,
    "sources": 0,
    "decoding": 0,
    "files": 0,
    "architectures": 0,
    "schema": 0,
    "identities": 0,
    "draining": 0,
    "filesystems": 0,
    "findings": 1,
    "probe": 0,
    "resizing": 0,
    "code_spans": 0,
    "strategies": 0,
    "uncertainty": 0,
    "comparison": 0,
    "ablation_text": 1,
    "ablation_figure": 3,
    "ablation": 4,
    "model_card": 5,
    "deletion": 2,
    "faithfulness_figure": 3,
    "faithfulness_text": 1,
    "faithfulness": 4,
    "output_options": 1,
    "foresight": 7,
    "studies": 7,
    "toml_lines": 0,
    "validation": 8,
    "study_template": 2,
    "study_draft": 3,
    "shipped": 0,
    "completion": 1,
    "file_commands": 9,
    "paper": 0,
    "amounts": 0,
    "bars": 0,
    "losses": 1,
    "stages": 1,
    "augment": 0,
    "networks": 1,
    "attribution": 1,
    "memory": 1,
    "imputation": 1,
    "small_maps": 1,
    "devices": 1,
    "evaluation": 1,
    "optimizers": 1,
    "checkpoints": 1,
    "spec": 1,
    "vault": 1,
    "shards": 1,
    "users": 1,
    "gpus": 1,
    "patience": 1,
    "installation": 2,
    "fenced": 2,
    "database": 3,
    "arrays": 1,
    "downloads": 1,
    "image_folder": 1,
    "splits": 1,
    "controls": 2,
    "datasets": 2,
    "batches": 2,
    "compiling": 2,
    "fitting": 2,
    "models": 2,
    "weight_files": 2,
    "onnx_export": 2,
    "figures": 2,
    "processes": 1,
    "supervisor": 2,
    "study_file": 2,
    "space": 2,
    "feasible": 2,
    "lessons": 3,
    "trial_figures": 3,
    "outcomes": 3,
    "owing": 3,
    "teacher": 3,
    "latency": 3,
    "deployment": 3,
    "activations": 0,
    "latency_table": 4,
    "timings": 5,
    "timed_subject": 6,
    "timed_pair": 7,
    "latency_command": 9,
    "example": 0,
    "logits_bank": 3,
    "overlay_bank": 3,
    "materials": 4,
    "slots": 4,
    "artifacts": 4,
    "searches": 4,
    "queued": 4,
    "warm_start": 4,
    "connections": 4,
    "inventory": 4,
    "gallery": 4,
    "training": 5,
    "births": 5,
    "workers": 5,
    "server_health": 5,
    "stopping": 5,
    "registry": 5,
    "results": 5,
    "pace": 5,
    "keeper": 6,
    "pictures": 6,
    "worker": 6,
    "database_health": 6,
    "charts": 6,
    "importances": 6,
    "report_pictures": 6,
    "report": 7,
    "report_charts": 7,
    "report_captions": 7,
    "report_text": 8,
    "report_page": 8,
    "report_command": 9,
    "tables": 6,
    "additions": 6,
    "copying": 6,
    "removal": 6,
    "repairs": 6,
    "retries": 6,
    "progress": 6,
    "overview": 6,
    "export": 6,
    "launch": 7,
    "arms": 2,
    "held_out": 3,
    "runs": 6,
    "delivery": 7,
    "trainers": 7,
    "tuning": 8,
    "reruns": 8,
    "workshop": 9,
    "candidates": 10,
    "final_tables": 7,
    "final_result": 11,
    "settled": 10,
    "final": 12,
    "final_commands": 13,
    "callers": 0,
    "answers": 1,
    "gate": 2,
    "logins": 0,
    "login_page": 0,
    "tokens": 1,
    "listening": 1,
    "front_end": 2,
    "study_note": 6,
    "exhibit": 7,
    "dashboard": 8,
    "dashboard_command": 9,
    "maintenance": 7,
    "watching": 7,
    "doctor": 7,
    "command_options": 7,
    "endings": 7,
    "notices": 7,
    "pool": 8,
    "study_commands": 8,
    "crew": 6,
    "spectator": 7,
    "local_workers": 8,
    "ray_workers": 8,
    "slurm_workers": 9,
    "status_command": 8,
    "doctor_command": 8,
    "worker_commands": 9,
    "cli": 14,
    "__main__": 15,
}
"""Module -> floor; a module that is not here yet has its place already."""


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imported_names(nodes: list[ast.AST]) -> set[str]:
    """Dotted names that import statements among these nodes mention."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def house_imports(module: str) -> set[str]:
    """The modules of the house that a module imports, wherever in it."""
    parts = [name.split(".") for name in imported_names(list(ast.walk(tree_of(module))))]
    return {part[1] for part in parts if part[0] == "igkd_search" and part[1] in MODULES}


def test_every_module_has_a_floor() -> None:
    assert set(MODULES) <= set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_to_strictly_lower_floors(module: str) -> None:
    upwards = {name for name in house_imports(module) if FLOORS[name] >= FLOORS[module]}
    assert upwards == set()


def test_no_import_goes_round() -> None:
    # the floors forbid it too; this one needs no table
    left = {module: house_imports(module) for module in MODULES}
    while free := [module for module, imports in left.items() if not imports & set(left)]:
        for module in free:
            del left[module]
    assert left == {}


def test_the_reader_of_imports_sees_them() -> None:
    # were it blind, every test above would pass
    assert house_imports("image_folder") == {"decoding", "errors", "sources"}
    assert "launch" in house_imports("cli")  # imported inside a function


def test_importing_the_package_imports_nothing() -> None:
    assert imported_names(list(ast.walk(tree_of("__init__")))) == set()


@pytest.mark.parametrize(
    "module",
    [
        *("spec", "strategies", "architectures", "errors", "console", "cli", "__main__"),
        *("doctor_command", "report_command", "paper", "amounts"),
    ],
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    heavy = {"torch", "torchvision", "optuna", "sqlalchemy", "numpy", "rich", "captum", "sklearn"}
    at_once = imported_names(list(tree_of(module).body))
    assert {name.split(".")[0] for name in at_once} & heavy == set()


def test_the_whole_package_is_read_only_downwards_from_the_root() -> None:
    # `import igkd_search` or a star would hide what is used
    for module in MODULES:
        names = imported_names(list(ast.walk(tree_of(module))))
        assert not [name for name in names if name == "igkd_search" or name.endswith(".*")]


@pytest.mark.parametrize("module", MODULES)
def test_the_readme_names_every_module(module: str) -> None:
    assert f"{module}.py" in (ROOT / "README.md").read_text(encoding="utf-8")

"""What `timings.measure` could have found, for tests that only show or keep it."""

from typing import Any


def stats(median: float) -> dict[str, Any]:
    return {"median_ms": median, "iqr_ms": median / 10, "n": 30}


def row(engine: str, batch: int, threads: int, teacher: float, student: float) -> dict[str, Any]:
    both = {"teacher": stats(teacher), "student": stats(student)}
    return {
        "engine": engine,
        "batch": batch,
        "threads": threads,
        **both,
        "ratio": teacher / student,
    }


def model(parameters: int) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "macs": 3 * parameters,
        "activation_bytes": 1000 + parameters // 1000,
        "files": {"onnx": 4 * parameters, "int8": parameters},
    }


def found(**more: Any) -> dict[str, Any]:
    return {
        "machine": {
            "cpu": "Example CPU",
            "cores": 8,
            "usable_cores": 2,
            "cores_used_by_others": 0.1,
            "quiet": True,
            "torch": "2.9.0",
            "onnxruntime": "1.20.0",
            "python": "3.12.1",
            "system": "Linux x86_64",
        },
        "models": {"teacher": model(2_236_682), "student": model(543_498)},
        "calibration": "training rows",
        "rows": [
            row("pytorch", 1, 1, 14.0, 10.0),
            row("onnxruntime", 1, 1, 3.82, 2.16),
            row("onnxruntime-int8", 64, 2, 100.0, 60.0),
        ],
        "skipped": [{"engine": "compiled", "reason": "InvalidCxxCompiler: no working compiler"}],
        **more,
    }

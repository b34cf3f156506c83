"""What is installed here, and which devices torch can use, as findings.

torch speaks through a process of its own (`probe`), so that one that is broken is found, not felt.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from igkd_search.errors import reason_of
from igkd_search.findings import Finding, fault, guarded, ok, warning

DISTRIBUTION = "igkd-search"
SHOWN = ("optuna", "SQLAlchemy", "psycopg", "pydantic", "onnxruntime")
EXTRAS = {"ray": "--launcher ray", "slurm": "--launcher slurm"}
_OLDEST = (3, 11)
_PROBE_SECONDS = 120.0  # a first import from a cold network disk takes its time
_FULL = 0.9  # of a card's memory: no trial beside what fills it so
_REINSTALL = f"pip install --upgrade {DISTRIBUTION}"


def examine() -> Iterator[Finding]:
    """Python, packages, extras, torch and every device."""
    yield _python()
    yield from guarded("packages", _packages, (metadata.PackageNotFoundError,), _REINSTALL)
    yield from _devices()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    found = f"{version} ({sys.executable})"
    if sys.version_info[:2] < _OLDEST:
        return fault("python", found, "install Python 3.11 or newer, and igkd-search in it")
    return ok("python", found)


def _packages() -> Iterator[Finding]:
    asked = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    plain = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [f"{one} ({_version(one.name) or 'not there'})" for one in plain if not _is_met(one)]
    if wrong:
        yield fault("packages", f"not as required: {', '.join(wrong)}", _REINSTALL)
    else:
        shown = ", ".join(f"{name} {_version(name)}" for name in SHOWN)
        own = metadata.version(DISTRIBUTION)
        yield ok("packages", f"{DISTRIBUTION} {own}; {len(plain)} as required: {shown}")
    for extra, use in EXTRAS.items():
        yield _extra(extra, use, [one for one in asked if one not in plain])


def _extra(extra: str, use: str, optional: list[Requirement]) -> Finding:
    mine = [one for one in optional if one.marker and one.marker.evaluate({"extra": extra})]
    missing = [one.name for one in mine if not _is_met(one)]
    if missing:
        return ok(extra, f"not there; pip install '{DISTRIBUTION}[{extra}]' is for {use}")
    return ok(extra, ", ".join(f"{one.name} {_version(one.name)}" for one in mine))


def _is_met(one: Requirement) -> bool:
    version = _version(one.name)
    return version is not None and one.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    try:
        found = _probed()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        again = f"{sys.executable} -m igkd_search.probe"
        yield fault("torch", f"does not answer: {reason_of(error)}", f"{again}   shows more")
        return
    yield from _torch(found["torch"], found["torchvision"])
    for device in found.get("devices", []):
        yield _device(device)


def _probed() -> dict[str, Any]:
    """What `probe` prints; OSError, ValueError or SubprocessError when it did not get so far."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))
    done = subprocess.run(
        [sys.executable, "-m", "igkd_search.probe"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=_PROBE_SECONDS,
        check=False,
    )
    if done.returncode != 0 or not done.stdout.strip():
        said = done.stderr.strip().splitlines()
        raise OSError(f"exit code {done.returncode}{': ' + said[-1] if said else ''}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _torch(torch: dict[str, Any], vision: dict[str, Any]) -> Iterator[Finding]:
    both = "pip install --upgrade --force-reinstall torch torchvision   (two that belong together)"
    if "error" in torch:
        yield fault("torch", torch["error"], both)
    else:
        yield ok("torch", f"{torch['version']}, {_build(torch['builds'])}")
    if "error" in vision:
        yield fault("torchvision", vision["error"], both)
    else:
        yield ok("torchvision", vision["version"])


def _build(builds: dict[str, str]) -> str:
    return f"built for {' '.join(*builds.items())}" if builds else "built for the CPU alone"


def _device(device: dict[str, Any]) -> Finding:
    name = device["name"]
    if "error" in device:
        return fault(name, device["error"], "nvidia-smi   shows the driver; or --device cpu")
    words = [device.get("kind"), device.get("uuid"), _capability(device), _memory(device)]
    found = ", ".join(filter(None, words))
    if "free" in device and device["free"] < (1 - _FULL) * device["bytes"]:
        return warning(name, found, "nvidia-smi   shows whose it is; --gpus picks others")
    return ok(name, found)


def _capability(device: dict[str, Any]) -> str:
    if "cores" in device:
        return f"{device['cores']} cores"
    return f"capability {device['capability']}" if "capability" in device else ""


def _memory(device: dict[str, Any]) -> str:
    if "bytes" not in device:
        return ""
    total = f"{device['bytes'] / 1e9:.0f} GB"
    return f"{device['free'] / 1e9:.0f} of {total} free" if "free" in device else total

"""What `igkd prepare` and `igkd worker` do to a database, with no training and so without torch.

It says how it was started, so that tests can look for what must not be seen there.
"""

import os
import sys
from pathlib import Path

from igkd_search import command_options, database, processes, registry, slots

SAID = ("IGKD_STOPS", "IGKD_WORKERS", "IGKD_DEVICE", "CUDA_VISIBLE_DEVICES")


def main(command: str, study: str, *rest: str) -> None:
    """One command."""
    processes.die_with_parent()
    seen = Path("/proc/self/cmdline").read_bytes().decode().split("\0")
    print(" ".join(seen), *(f"{name}={os.environ.get(name)}" for name in SAID), flush=True)
    base = database.connect(command_options.url_of(os.environ["IGKD_STORAGE"], Path()))
    if command == "prepare":
        trials = int(rest[rest.index("--trials") + 1]) if "--trials" in rest else None
        registry.register(base, registry.find(study), trials)
    else:
        table, spent = slots.Slots(base, study), 0
        while claim := table.claim():
            table.finish(claim, "complete")
            spent += 1
        print(f"spent {spent}")
    base.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

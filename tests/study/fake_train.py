"""A launcher that stands in for `mm1 train CONFIG --out FOLDER --resume`: it is fast,
and the run's rate decides how it ends.

Its validation loss is minimal at the rate 0.5 * dim^-0.8, a law with slope -0.4 if dim
alone varies.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

config = json.loads(Path(sys.argv[4]).read_text())
folder = Path(sys.argv[6])
assert sys.argv[1:4] == ["-m", "mm1.cli", "train"]
assert sys.argv[7] == "--resume"
rate = config["optimizer"]["peak_lr"]
for origin in config["init"].values():
    assert (Path(origin) / "summary.json").is_file(), (
        "started before the run it starts from"
    )
with (folder / "started").open("a") as file:
    file.write(f"{os.getpid()}\n")
print("fake run", rate)
if rate == 3.0:
    sys.exit(3)
if rate == 1.0:
    sys.exit("out of memory")
if rate == 9.0:  # the first attempt saves when it is stopped
    signal.signal(
        signal.SIGTERM, lambda *_: ((folder / "saved").touch(), os._exit(130))
    )
    if not (folder / "saved").exists():
        (folder / "ready").touch()
        time.sleep(60)
best = 0.5 * config["model"]["decoder"]["dim"] ** -0.8
loss = math.exp(1 + 0.05 * math.log(rate / best) ** 2 + 0.1 * config["seed"])
steps = [{"step": 0, "validation": 9.0}, {"step": 1, "validation": loss}]
(folder / "metrics.jsonl").write_text(
    "".join(json.dumps(step) + "\n" for step in steps)
)
(folder / "summary.json").write_text(json.dumps({"finished": True}))

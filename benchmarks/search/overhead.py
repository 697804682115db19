"""What the coordinator takes per candidate: `python benchmarks/search/overhead.py` (4 minutes).

A study in SQLite, asked and told as a search does it, without anything being evaluated; plan latencies take what they
take in the simulator. Writes to benchmarks/results/search_simulator.json.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from landscape import SETTINGS
from simulator import RESULTS, Task

from autoprune.devices.latency import Latency
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.study import Study
from autoprune.tasks.score import Score

SETTINGS["20 groups"] = replace(SETTINGS["default"], groups=20)


def result_of(task: Task, number: int, plan: Plan) -> Candidate:
    """What evaluating a plan would give."""
    levels, methods = task.net.read(plan)
    ms = task.net.latency_ms(levels)
    latency = Latency(ms, ms, ms, "p50", "profile", "rpi4", "onnxruntime", "1", 4, 10)
    score = Score("accuracy", task.net.metric(levels, methods), "validation", 1000, 0.01)
    return Candidate(number, "search", plan, score=score, latency=latency)


def candidate(task: Task, study: Study) -> dict[str, float]:
    """One trial; milliseconds of asking (with its parameters), of telling, and of reading all candidates."""
    times = [time.perf_counter()]
    trial = study.ask()
    plan = task.proposer.suggest(trial)
    times.append(time.perf_counter())
    found = result_of(task, trial.number, plan)
    times.append(time.perf_counter())
    study.tell(trial, found, None)
    times.append(time.perf_counter())
    study.candidates()
    times.append(time.perf_counter())
    spent = np.diff(times) * 1e3
    return {"ask": spent[0], "tell": spent[2], "candidates": spent[3]}


def overhead(setting: str, trials: int, looks: int = 0, last: int = 20) -> dict[str, float]:
    """By a sampler that decodes so many plans to look at in most of its proposals (a look itself takes no time here):
    means over the last candidates, and seconds to open the study again and read its candidates.
    """
    task = Task(setting, 0)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db"
        study = Study(url, "random", 0, True)
        for parameters in task.proposer.controls().values():
            study.enqueue("control", parameters)
        for _ in range(trials - last):
            candidate(task, study)
        study.use(task.sampler(0, looks=looks))
        candidate(task, study)
        rows = [candidate(task, study) for _ in range(last)]
        study.close()
        start = time.perf_counter()
        again = Study(url, "random", 0, True)
        count = len(again.candidates())
        resume_s = time.perf_counter() - start
        again.close()
    means = {f"{k}_ms": float(np.mean([r[k] for r in rows])) for k in rows[0]}
    total = sum(means.values())
    return {k: round(v, 2) for k, v in {**means, "all_ms": total, "resume_s": resume_s, "trials": count}.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = {}
    for setting, trials, looks in (("many groups", 200, 0), ("many groups", 200, 4), ("20 groups", 1000, 0),
                                   ("default", 1000, 0), ("default", 1000, 4)):
        name = f"{SETTINGS[setting].groups} groups, {trials} trials" + (f", looks at {looks}" if looks else "")
        rows[name] = overhead(setting, trials, looks)
        print(name, rows[name], flush=True)
    results = json.loads(Path(RESULTS).read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**results, "overhead": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The merge bench: merges x budgets x seeds x rivals, as one table that grows by what is new.

    python benchmarks/merges.py --only photos digits --budget short --seeds 0 --rivals loop loop-labels old ours
    python benchmarks/merges.py --only photos --variant lr5e-3 --set optimizer.lr=5e-3
    python benchmarks/merges.py --table
    python benchmarks/merges.py --cost --only photos

Rivals: `loop` and `loop-labels`, the short loop of merge_loop.py with and without teachers; `single`, a network of the
student's trunk for each task, trained by that loop on its labels for as many steps; `teachers`; `old`, our defaults as
they were before issue 14; `ours`, our present defaults. A `--variant` is ours with `--set` keys, in which `tasks.*.KEY`
stands for every task and `data.*.KEY` for every data set.

Each run is a process of one thread whose folder is kept below the work folder ($DISTILL_MTL_BENCH, --work, default
runs/merges). A run that is there is not made again. Ctrl-C loses the running one only. Shards and teachers are made on
first use. Real pictures are looked for in $DISTILL_MTL_DATA, else in ../shared/data beside the repository.
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from merge_scores import FIXED, RIVALS, SCORES, Runs, Scored, block_lines, whole_lines
from merge_sets import MERGES, ROOT, long_form, recipe_of, write_recipe

BUDGETS = ("short", "long")
RATES = {"sgd": (0.02, 0.05, 0.12, 0.3), "adamw": (5e-4, 1e-3, 2e-3, 4e-3)}
MOST_RATES = 6
LOOP = "loop.json"
POLL = 5.0  # seconds between two looks at what another invocation is making


@dataclass(frozen=True)
class Run:
    """One cell: an entrant is a rival, a variant, or `rate-R`, the loop at a rate that is tried."""

    merge: str
    budget: str
    entrant: str
    seed: int

    def folder(self, work: Path) -> Path:
        return work / "runs" / self.merge / self.budget / self.entrant / str(self.seed)

    def finished(self, work: Path) -> bool:
        return (self.folder(work) / SCORES).exists()

    def __str__(self) -> str:
        return f"{self.merge} {self.budget} {self.entrant} {'' if self.seed == FIXED else self.seed}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=MERGES, default=list(MERGES), metavar="MERGE")
    parser.add_argument("--budget", nargs="+", choices=BUDGETS, default=["short"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, help="default: all; with --variant: none")
    parser.add_argument(
        "--variant", help="a name for ours with the keys of --set, which a known name needs no more"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="sets")
    parser.add_argument("--again", action="store_true", help="run what is named again, though it is there")
    parser.add_argument("--subject", default="ours", help="whose lead the table shows; default ours")
    parser.add_argument("--list", action="store_true", help="merges, entrants and runs that are there")
    parser.add_argument(
        "--table", action="store_true", help="print the table of what is there, and run nothing"
    )
    parser.add_argument("--teachers", action="store_true", help="make shards and teachers, and run nothing")
    parser.add_argument("--cost", action="store_true", help="CPU seconds of a step of ours and of the loop's")
    parser.add_argument("--work", type=Path, default=Path(os.environ.get("DISTILL_MTL_BENCH", "runs/merges")))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    if arguments.child:
        from merge_run import child

        return child(arguments.child, work, arguments.sets)
    if arguments.list:
        return print_list(work)
    if arguments.table:
        return print_table(work, arguments.only, arguments.budget, arguments.subject)
    try:
        for merge in arguments.only:
            prepare(merge, work)
        if arguments.cost:
            for merge in arguments.only:
                start(["cost", merge], work, arguments.sets)
        elif not arguments.teachers:
            run_all(arguments, work)
            print_table(work, arguments.only, arguments.budget, arguments.variant or arguments.subject)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on with the run that was cut off")


def run_all(arguments: argparse.Namespace, work: Path) -> None:
    """Make what is named and not there."""
    if arguments.sets and not arguments.variant:
        sys.exit("--set is for a variant: give it a name with --variant NAME")
    rivals = arguments.rivals
    if rivals is None:
        rivals = [] if arguments.variant else list(RIVALS)
    if arguments.variant:
        arguments.sets = sets_of(arguments.variant, arguments.sets, work)
        rivals = [*rivals, arguments.variant]
    runs = planned(arguments.only, arguments.budget, rivals, arguments.seeds)
    for run in runs:
        if arguments.again or not is_there(run, work):
            shutil.rmtree(run.folder(work), ignore_errors=True)
    make_missing(runs, work, {arguments.variant: arguments.sets})


def make_missing(runs: Sequence[Run], work: Path, sets: Mapping[str, Sequence[str]]) -> None:
    """Make the runs that are not finished.

    Args:
        runs: wanted.
        work: the work folder.
        sets: variant -> the keys that it sets.
    """
    progress = Progress([run for run in runs if not run.finished(work)], work)
    for merge in dict.fromkeys(run.merge for run in progress.left):
        if {run.entrant for run in progress.left if run.merge == merge} & {"loop", "loop-labels", "single"}:
            choose_rate(merge, work, progress)
    make_all(list(progress.left), work, sets, progress)


def planned(
    merges: Iterable[str], budgets: Iterable[str], entrants: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """Every run that is wanted, seed by seed, so that a table is soon complete for the first; teachers once."""
    return [
        Run(merge, budget, entrant, FIXED if entrant == "teachers" else seed)
        for number, seed in enumerate(seeds)
        for budget in budgets
        for merge in merges
        for entrant in entrants
        if entrant != "teachers" or not number
    ]


def is_there(run: Run, work: Path) -> bool:
    """Whether the run is finished; one of our present defaults is not where these have changed since."""
    if not run.finished(work):
        return False
    if run.entrant != "ours" or (run.folder(work) / "recipe.long.yaml").read_text() == of_today(run, work):
        return True
    print(f"{run}: the defaults have changed since; it is run again", file=sys.stderr)
    return False


def of_today(run: Run, work: Path) -> str:
    """The recipe of a run of ours with every default of today."""
    merge = MERGES[run.merge]
    recipe = recipe_of(merge, work, seed=run.seed, steps=merge.steps(run.budget))
    os.chdir(ROOT)  # where paths of shipped recipes begin
    with tempfile.TemporaryDirectory() as folder:
        return long_form(write_recipe(recipe, Path(folder)))


def sets_of(name: str, sets: Sequence[str], work: Path) -> list[str]:
    """What a variant sets: kept with its name, which stands for one variant only."""
    if name in RIVALS or name.startswith("rate-"):
        sys.exit(f"--variant {name}: a rival has this name")
    file = work / "variants.json"
    with claim(file) as mine:
        if not mine:
            time.sleep(0.1)
            return sets_of(name, sets, work)
        known: dict[str, list[str]] = json.loads(file.read_text()) if file.exists() else {}
        if not sets and name not in known:
            sys.exit(f"--variant {name} is new: say what it changes with --set KEY=VALUE")
        if sets and known.get(name, list(sets)) != list(sets):
            sys.exit(f"--variant {name} was run with --set {' '.join(known[name])}. Choose another name.")
        known[name] = list(sets) or known[name]
        file.write_text(json.dumps(known, indent=2))
    return known[name]


# ---- running ------------------------------------------------------------------------------------------
class Progress:
    """What is left, and about how long it will take, from how long runs of the kind took before."""

    def __init__(self, runs: list[Run], work: Path) -> None:
        self.left, self._file, self._done = list(runs), work / "times.json", 0

    @property
    def times(self) -> dict[str, float]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def note(self, run: Run, seconds: float) -> None:
        """A run has taken so long."""
        times = self.times | {key_of(run): seconds}
        self._file.write_text(json.dumps(times, indent=1, sort_keys=True))
        self._done += 1
        self.left = [other for other in self.left if other != run]

    def __str__(self) -> str:
        times = self.times
        usual = sum(times.values()) / len(times) if times else 90.0
        seconds = sum(times.get(key_of(run), usual) for run in self.left)
        return f"{self._done + 1}/{self._done + len(self.left)}, about {seconds / 60:.0f} min to go"


def key_of(run: Run) -> str:
    return f"{run.merge}/{run.budget}/{run.entrant}"


def make_all(runs: Sequence[Run], work: Path, sets: Mapping[str, Sequence[str]], progress: Progress) -> None:
    """Make the runs; those that another invocation is making are waited for at the end."""
    waiting = list(runs)
    while waiting:
        done = [run for run in waiting if make(run, work, sets.get(run.entrant, []), progress)]
        waiting = [run for run in waiting if run not in done]
        if not done:
            time.sleep(POLL)


def make(run: Run, work: Path, sets: Sequence[str], progress: Progress) -> bool:
    """One run in a process of its own, into its folder, which is there when it is whole; False while another
    invocation is making it."""
    folder = run.folder(work)
    with claim(folder) as mine:
        if not mine:
            return False
        if run.finished(work):
            progress.left = [other for other in progress.left if other != run]
            return True
        print(f"[{progress}] {run}", file=sys.stderr, flush=True)
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        began = time.monotonic()
        what = ["run", run.merge, run.budget, run.entrant, str(run.seed), str(part)]
        start(what, work, sets, log=part / "log")
        part.rename(folder)
    progress.note(run, time.monotonic() - began)
    found = Scored.read(folder)
    shown = " ".join(f"{task} {score:.2f}" for task, score in found.scores.items())
    print(f"    {shown}  {found.cpu:.0f} CPU s", file=sys.stderr, flush=True)
    return True


@contextmanager
def claim(place: Path) -> Iterator[bool]:
    """Whether this process may make what is to lie at `place`: no other living one is making it."""
    lock = place.with_name(f"{place.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def start(what: Sequence[str], work: Path, sets: Sequence[str], log: Path | None = None) -> None:
    """A process of this script; where it fails, the end of its log and an exit."""
    command = [sys.executable, __file__, "--work", str(work)]
    command += ["--set", *sets] if sets else []
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = {"env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, "cwd": ROOT}
    if log is None:
        done = subprocess.run([*command, "--child", *what], **process)
    else:
        with log.open("a") as file:
            done = subprocess.run([*command, "--child", *what], stdout=file, stderr=file, **process)
    if done.returncode:
        end = "" if log is None else "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        sys.exit(
            f"{end}\n{' '.join(what)} failed (status {done.returncode}){'' if log is None else f': {log}'}"
        )


def choose_rate(merge: str, work: Path, progress: Progress) -> None:
    """The loop's precision, and its rate: the best on validation at the short budget, of four and of up to two more
    where the best is the first or the last."""
    file = work / "runs" / merge / LOOP
    if file.exists():
        return
    rates = list(RATES[MERGES[merge].loop_optimizer])
    while True:
        tried = {rate: Run(merge, "short", f"rate-{rate:g}", 0) for rate in sorted(rates)}
        missing = [run for run in tried.values() if not run.finished(work)]
        progress.left = [*missing, *progress.left]
        make_all(missing, work, {}, progress)
        found = {rate: Scored.read(run.folder(work)) for rate, run in tried.items()}
        validation = {rate: run.notes["validation"] for rate, run in found.items()}
        rate = max(validation, key=lambda rate: validation[rate])
        if len(rates) == MOST_RATES or rate not in (min(rates), max(rates)):
            break
        rates.append(float(f"{rate * 2.5 if rate == max(rates) else rate / 2.5:g}"))
    chosen = {"rate": rate, "bf16": found[rate].notes["bf16"], "validation": validation}
    file.write_text(json.dumps(chosen, indent=2))
    print(f"    {merge}: the loop takes {chosen}", file=sys.stderr)
    loop = Run(merge, "short", "loop", 0)
    if not loop.finished(work):  # the best try is this very run
        shutil.copytree(tried[rate].folder(work), loop.folder(work), dirs_exist_ok=True)
    progress.left = [run for run in progress.left if run != loop]


def prepare(merge: str, work: Path) -> None:
    """Shards and teachers of a merge, made once."""
    for name in MERGES[merge].shards:
        make_part(["shards", merge, name], work / "shards" / name, work)
    for name in MERGES[merge].teachers:
        make_part(["teacher", merge, name], work / "teachers" / name, work)


def make_part(what: Sequence[str], place: Path, work: Path) -> None:
    """What lies at `place` when it is whole; waits while another invocation is making it."""
    while not place.exists():
        with claim(place) as mine:
            if mine and not place.exists():
                print(" ".join(what), file=sys.stderr, flush=True)
                start(what, work, [], log=place.with_name(f"{place.name}.log"))
        if not mine:
            time.sleep(POLL)


# ---- reading ------------------------------------------------------------------------------------------
def runs_of(merge: str, budget: str, work: Path) -> Runs:
    """Entrant -> seed -> run, of what is there; rates that were tried are left out."""
    found: dict[str, dict[int, Scored]] = {}
    for file in sorted((work / "runs" / merge / budget).glob(f"*/*/{SCORES}")):
        entrant, seed = file.parts[-3], file.parts[-2]
        if not seed.endswith(".part") and not entrant.startswith("rate-"):
            found.setdefault(entrant, {})[int(seed)] = Scored.read(file.parent)
    return found


def print_table(work: Path, merges: Iterable[str], budgets: Iterable[str], subject: str) -> None:
    blocks = {}
    for budget in budgets:
        for merge in merges:
            runs = runs_of(merge, budget, work)
            if runs:
                blocks[f"{merge}, {budget}"] = runs
                title = f"{merge}, {budget}: {MERGES[merge].steps(budget):,} steps"
                print("\n".join(block_lines(title, runs, subject)))
    if blocks:
        print("\n".join(whole_lines(blocks)))
    variants = work / "variants.json"
    if variants.exists():
        for name, sets in json.loads(variants.read_text()).items():
            print(f"- `{name}`: {' '.join(sets)}")


def print_list(work: Path) -> None:
    for name, merge in MERGES.items():
        print(f"{name}: {merge.about}; {merge.steps('short'):,} and {merge.steps('long'):,} steps")
        for budget in BUDGETS:
            for entrant, seeds in runs_of(name, budget, work).items():
                print(f"    {budget} {entrant}: seeds {', '.join(map(str, seeds))}")


if __name__ == "__main__":
    main()

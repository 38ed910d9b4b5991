"""The pipeline of one study: teacher -> students -> features -> measures, maps -> book.

`python -m kdlib study studies/quick.yaml` runs it (with a lock and the study checked first);
everything after `--` goes to Snakemake. kdlib.plan.studies says which runs a study has, kdlib.plan.runs where
each lies; a notebook is run again when it, its parameters, its data or a module it uses changed.
"""

import ast
import json
from functools import cache
from glob import glob
from pathlib import Path

from kdlib import UsageError
from kdlib.plan import runs, studies

try:
    STUDY = studies.read(config.get("study", "studies/quick.yaml"))
except UsageError as problem:
    raise WorkflowError(str(problem))

TEACHERS = {run.name: run for run in STUDY.teachers}
ROOT = str(STUDY.teachers[0].root)
SOURCE = STUDY.teachers[0].source
MAPS = {maps.name: maps for maps in STUDY.drawn.values()}
COMPARED = {STUDY.compared.name: STUDY.compared} if STUDY.compared else {}
FILM = STUDY.followed  # None where the study has no film
BLOCKS = {block: [run.name for run in members] for block, members in STUDY.blocks.items()}
TAUGHT = {
    block: sorted({run.teacher for run in members if isinstance(run, runs.Student)})
    for block, members in STUDY.blocks.items()
}
NETWORKS = [run.name for run in (*STUDY.teachers, *STUDY.students)]
PUBLISHED = f"book/results/{STUDY.name}"
KEPT_IN_GIT = ["methods", "regimes", "architectures"]  # studies that the book shows beside its own


@cache  # a rule for every kernel asks
def code_of(file):
    """The modules of kdlib that a notebook or a module uses, and those that they use."""
    text = Path(file).read_text()
    if file.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    todo, seen = [text], set()
    while todo:
        for node in ast.walk(ast.parse(todo.pop())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kdlib":
                place = node.module.replace(".", "/")  # from kdlib.data import Images
                for name in [a.name for a in node.names]:
                    files = {f"{place}.py", f"{place}/__init__.py", f"{place}/{name}.py"}
                    files |= {f"{place}/{name}/__init__.py"}
                    for file in {f for f in files if Path(f).is_file()} - seen:
                        seen.add(file)
                        todo.append(Path(file).read_text())
    return sorted({"kdlib/__init__.py", *seen})


def needs(notebook, data=True):
    """What every run of a notebook depends on beside other runs."""
    data = [str(path) for path in SOURCE.files] if data else []
    file = f"notebooks/{notebook}.ipynb"
    return dict(notebook=file, code=code_of(file), data=data)


def settings(choice, **more):
    """What a notebook is told. Reads no file: Snakemake compares it and runs again on change."""
    return json.dumps(choice.settings() | more)


def snapshots(together):
    """The epochs whose weights a kernel keeps. Left out where none: that re-runs nothing."""
    return {"snapshots": together.snapshots} if together.snapshots else {}


# Behind names, because Snakemake compares the template: what changes here re-runs nothing.
PAPERMILL = "papermill --no-progress-bar --log-level ERROR"
DEVICE = config.get("device", "auto")
RUN = "{PAPERMILL} {input.notebook} {log} -y {params.settings:q} -p "
MEASURE = RUN + "threads {threads}"
TRAIN = RUN + "threads {threads} -p device {DEVICE}"
DRAW = RUN + "workers {threads}"
SHOOT = RUN + "workers {threads} -p device {DEVICE}"


TRAINED = ["run.json", "weights.safetensors"]  # what a network is
KEPT = ["run.json", "features.safetensors", "measures.parquet", "similarity.parquet", "map_measures.parquet"]  # what is published of it
COMPARISON = ["comparison", "sweeps"]
FILMED = ["film", "training"]
DRAWN = ["", "-faithfulness", "-neighbours"]
TABLES = ["runs", "measures", "similarity", "maps", "faithfulness", "neighbours", "predictions", "teacher_logits"]
TABLES += [*COMPARISON, *FILMED]
PAGES = ["teacher", "student", "features", "measure", "embed"]  # executed notebooks in the book
PAGES += ["compare"] if COMPARED else []
PAGES += ["film"] if FILM else []
if not STUDY.layers:  # runs alone; no book can be made of that
    KEPT, PAGES = ["run.json"], ["teacher", "student"]
BUILD = """
rm -rf book/executed
mkdir -p book/executed _build/html
cp {PUBLISHED}/executed/*.ipynb book/executed/
KDLIB_STUDY={STUDY.name} jupyter-book build . -n -W --keep-going > {log} 2>&1
rm -rf _build/html/results
cp -r {PUBLISHED} _build/html/results
"""


localrules: publish, book


rule book:
    input:
        f"{PUBLISHED}/study.json",
        "_config.yml",
        "_toc.yml",
        [f for f in glob("book/*") if Path(f).is_file()],
        [f for name in [*KEPT_IN_GIT, "benchmarks"] for f in glob(f"book/results/{name}/*.*")],
        [f for f in glob("kdlib/**", recursive=True) if Path(f).suffix in (".py", ".js", ".css")],
    output:
        "_build/html/index.html",
    log:
        "_build/book.log",
    shell:
        BUILD


rule publish:
    default_target: not STUDY.layers
    input:
        expand("{root}/{name}/{file}", root=ROOT, name=NETWORKS, file=KEPT),
        expand("{root}/maps/{name}{end}.parquet", root=ROOT, name=MAPS, end=DRAWN),
        expand("{root}/maps/{name}-{end}.parquet", root=ROOT, name=COMPARED, end=COMPARISON),
        expand("{root}/maps/{film.name}-{end}.parquet", root=ROOT, film=[FILM], end=FILMED)
        if FILM
        else [],
        code=code_of("kdlib/cli.py"),
    output:
        study=f"{PUBLISHED}/study.json",
        tables=expand("{to}/{table}.parquet", to=PUBLISHED, table=TABLES),
        sample=f"{PUBLISHED}/sample.safetensors",
        executed=expand("{to}/executed/{page}.ipynb", to=PUBLISHED, page=PAGES),
    params:
        study=lambda w: config.get("study", "studies/quick.yaml"),
    shell:
        "python -m kdlib publish {params.study}"


rule teacher:
    input:
        **needs("teacher"),
        weights=lambda w: [f for f in [TEACHERS[w.teacher].weights] if f and Path(f).is_file()],
    output:
        ROOT + "/{teacher}/run.json",
        ROOT + "/{teacher}/weights.safetensors",
        ROOT + "/{teacher}/history.parquet",
    log:
        ROOT + "/{teacher}/teacher.ipynb",
    wildcard_constraints:
        teacher="teachers/.+",
    params:
        settings=lambda w: settings(TEACHERS[w.teacher]),
    resources:
        gpu=1,
    shell:
        TRAIN


# Students of one teacher, label budget and seed are trained side by side: the teacher looks once.
for kernel, together in STUDY.kernels.items():

    rule:
        name:
            f"student_{kernel.replace('/', '-')}"
        input:
            **needs("student"),
            teacher=expand("{root}/{name}/{file}", root=ROOT, name=together.teacher, file=TRAINED),
        output:
            expand(
                "{root}/{name}/{file}",
                root=ROOT,
                name=[run.name for run in together.each],
                file=[*TRAINED, "history.parquet"],
            ),
            [f"{ROOT}/{run.name}/snapshots.safetensors" for run in together.each if run.snapshots],
        log:
            f"{ROOT}/students/{kernel}.ipynb",
        params:
            settings=settings(together, students=together.students, **snapshots(together)),
        resources:
            gpu=1,
        shell:
            TRAIN


# Networks of one label budget and seed are looked at together: one start of a kernel for all.
for block, names in BLOCKS.items():

    rule:
        name:
            f"features_{block}"
        input:
            **needs("features"),
            networks=expand("{root}/{name}/{file}", root=ROOT, name=names, file=TRAINED),
        output:
            expand("{root}/{name}/features.safetensors", root=ROOT, name=names),
        log:
            f"{ROOT}/features/{block}.ipynb",
        params:
            settings=settings(STUDY.looked(runs.Features, block)),
        resources:
            gpu=1,
        shell:
            TRAIN

    rule:
        name:
            f"measure_{block}"
        input:
            **needs("measure", data=False),
            networks=expand("{root}/{name}/features.safetensors", root=ROOT, name=names),
            teachers=expand("{root}/{name}/features.safetensors", root=ROOT, name=TAUGHT[block]),
        output:
            expand(
                "{root}/{name}/{file}.parquet",
                root=ROOT,
                name=names,
                file=["measures", "similarity", "map_measures"],
            ),
        log:
            f"{ROOT}/measures/{block}.ipynb",
        params:
            settings=settings(STUDY.looked(runs.Measures, block)),
        shell:
            MEASURE


rule maps:
    input:
        **needs("embed", data=False),
        networks=lambda w: [f"{ROOT}/{n}/features.safetensors" for n in MAPS[w.maps].networks],
    output:
        expand("{root}/maps/{{maps}}{end}.parquet", root=ROOT, end=DRAWN),
    log:
        ROOT + "/maps/{maps}.ipynb",
    wildcard_constraints:
        maps="|".join(MAPS).replace("+", "[+]").replace(".", "[.]"),
    params:
        settings=lambda w: settings(MAPS[w.maps]),
    threads:
        workflow.cores
    shell:
        DRAW


rule compare:
    input:
        **needs("compare", data=False),
        networks=lambda w: [
            f"{ROOT}/{n}/features.safetensors" for n in COMPARED[w.compared].networks
        ],
    output:
        expand("{root}/maps/{{compared}}-{end}.parquet", root=ROOT, end=COMPARISON),
    log:
        ROOT + "/maps/{compared}.ipynb",
    wildcard_constraints:
        compared="compare-[^/]+-networks-[^/-]+",
    params:
        settings=lambda w: settings(COMPARED[w.compared]),
    shell:
        DRAW


if FILM:

    rule film:
        input:
            **needs("film"),
            networks=expand(
                "{root}/{name}/{file}.safetensors",
                root=ROOT,
                name=FILM.networks,
                file=["snapshots", "weights", "features"],
            ),
            teachers=expand(
                "{root}/{name}/features.safetensors",
                root=ROOT,
                name=sorted({run.teacher for run in STUDY.filmed}),
            ),
        output:
            expand("{root}/maps/{film.name}-{end}.parquet", root=ROOT, film=[FILM], end=FILMED),
        log:
            f"{ROOT}/maps/{FILM.name}.ipynb",
        params:
            settings=settings(FILM),
        threads:
            workflow.cores
        resources:
            gpu=1,
        shell:
            SHOOT

"""The pipeline of one study: teacher -> students -> features -> measures, maps -> book.

`python -m kdlib study studies/quick.yaml` runs it (with a lock and the study checked first);
everything after `--` goes to Snakemake. kdlib.plan.studies says which runs a study has,
kdlib.plan.runs where each lies; a notebook is run again when it, its parameters, its data or a
module it uses changed: parameters and images by their content, files by their time.
"""

import ast
import json
import os
from functools import cache
from glob import glob
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

from kdlib import UsageError
from kdlib.plan import editions, runs, studies
from snakemake_logger_plugin_kdlib import failure

STUDY_FILE = str(config.get("study", "studies/quick.yaml"))
DEVICE = config.get("device", "cpu")
try:
    STUDY = studies.read(STUDY_FILE, DEVICE)
except UsageError as problem:
    raise WorkflowError(str(problem))

os.environ.setdefault(runs.CHECKPOINT_MINUTES, f"{STUDY.checkpoint_minutes:g}")  # as elsewhere

ROOT = str(STUDY.root)
DATASET = STUDY.dataset
TEACHERS = {run.name: run for run in STUDY.teachers}
MAPS = {maps.name: maps for maps in STUDY.map_tables.values()}
COMPARISON = STUDY.comparison  # None where the study has none
FILM = STUDY.film_table  # None where the study has none
# What starts first, of all that can: students by their seeds, then maps, which take longest, then
# the features that all else waits for.
MAPS_FIRST, FEATURES_FIRST = 2, 1
PUBLISHED = f"book/results/{STUDY.name}"
EDITIONS = editions.existing(STUDY.name)
MAINS = [edition.main for edition in EDITIONS]

# Files of a trained network, of a network that is published, and of each table.
TRAINED = ["run.json", "weights.safetensors"]
MEASURED = ["measures.parquet", "similarity.parquet", "map_measures.parquet"]
NETWORK = ["run.json", "features.safetensors", *MEASURED]
MAP_TABLES = ["", "-faithfulness", "-neighbours"]
COMPARISON_TABLES = ["comparison", "sweeps"]
FILM_TABLES = ["film", "training"]
TABLES = ["runs", "measures", "similarity", "maps", "faithfulness", "neighbours", "predictions"]
TABLES += ["teacher_logits", *COMPARISON_TABLES, *FILM_TABLES]
PAGES = ["teacher", "student", "features", "measure", "embed"]  # executed notebooks in the book
if STUDY.runs_only:  # no book can be made of runs
    NETWORK, PAGES = ["run.json"], ["teacher", "student"]
if COMPARISON:
    PAGES.append("compare")
if FILM:
    PAGES.append("film")


@cache  # a rule for every kernel asks
def code_of(file):
    """The modules of kdlib that a notebook or a module uses, and those that they use."""
    text = Path(file).read_text(encoding="utf-8")
    if file.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    todo, modules = [text], {file} if file.endswith(".py") else set()
    while todo:
        for node in ast.walk(ast.parse(todo.pop())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kdlib":
                for file in _files_of(node.module, [alias.name for alias in node.names]) - modules:
                    modules.add(file)
                    todo.append(Path(file).read_text(encoding="utf-8"))
    return sorted(modules)


def _files_of(module, names):
    """The files behind `from module import names`."""
    parts = module.split(".")
    place = "/".join(parts)
    files = {f"{place}.py", *("/".join([*parts[:i], "__init__.py"]) for i in range(1, len(parts) + 1))}
    for name in names:
        files |= {f"{place}/{name}.py", f"{place}/{name}/__init__.py"}
    return {file for file in files if Path(file).is_file()}


def needs(notebook):
    """What every run of a notebook depends on beside other runs."""
    file = f"notebooks/{notebook}.ipynb"
    return dict(notebook=file, code=code_of(file))


def settings(parameters, **more):
    """What a notebook is given beside the path of the images, which may move."""
    given = {k: v for k, v in parameters.settings().items() if k != "dataset"}
    if not given.get("weights_names", True):  # what is new and not used runs nothing again
        del given["weights_names"]
    text = json.dumps(given | more, ensure_ascii=False)
    beyond = max(map(ord, text)) > 0xFFFF  # YAML reads no surrogates
    return text if beyond else json.dumps(given | more)


def settings_of(kernel):
    """As `settings`, of students side by side; without snapshots where none are wanted."""
    snapshots = {"snapshots": kernel.snapshots} if kernel.snapshots else {}
    return settings(kernel, students=kernel.students, **snapshots)


def of_maps(table, ends):
    """The files of a table of maps, a comparison or a film; none where there is none."""
    return [f"{ROOT}/maps/{table.name}{end}.parquet" for end in ends] if table else []


def map_threads(wildcards):
    """Tables of maps share the cores, for much of their work is on one each; not those of a cluster."""
    if not (workflow.is_main_process and workflow.local_exec):
        return workflow.cores
    return max(1, workflow.cores // (len(MAPS) + bool(COMPARISON) + bool(FILM)))


def fixed(value):
    """A parameter that Snakemake takes as it is: braces in a plain text are wildcards to it."""
    return lambda wildcards: value


# A mistake of the study stays one: such a job is not tried again, whatever `retries` says.
def not_again(record):
    if getattr(record, "event", None) is LogEvent.JOB_ERROR and failure(record.log).mistake:
        for job in workflow.dag.jobs:
            if workflow.dag.jobid(job) == record.jobid:
                job._attempt = job.restart_times + 1  # its resources stay: they are freed next
    return True


if workflow.is_main_process:
    logger.addFilter(not_again)

GPU = {"gpu": 1} if DEVICE == "cuda" else {}  # a cluster without any refuses a job that asks

# All that is text is quoted (:q), so that a shell runs none of it. Behind names, because Snakemake
# compares the template: what changes here runs nothing again.
PAPERMILL = "papermill --engine kdlib --no-progress-bar --log-level ERROR"
RUN = "{PAPERMILL} {input.notebook:q} {log:q} -y {params.settings:q} -r dataset {DATASET:q} -p "
RUN_MEASURE = RUN + "threads {threads}"
RUN_NETWORKS = RUN + "threads {threads} -p device {DEVICE}"
RUN_MAPS = RUN + "workers {threads}"
RUN_FILM = RUN + "workers {threads} -p device {DEVICE}"


localrules: publish, book


def pages_of(edition):
    """The first page of an edition, of which the leading one has no folder of its own."""
    return "/".join(["_build/html", *([edition.key] if edition != EDITIONS[0] else []), "index.html"])


rule book:
    input:
        [pages_of(edition) for edition in EDITIONS],


for edition in EDITIONS:

    rule:
        name:
            f"edition_{edition.key}"
        localrule: True
        input:
            [f"book/results/{each.main}/study.json" for each in EDITIONS],
            "_config.yml",
            "_toc.yml",
            [f for f in glob("book/*.*") + glob("book/reference/*") + glob("book/images/*")],
            [f for each in EDITIONS for name in each.studies if name not in MAINS for f in glob(f"book/results/{name}/*.*")],
            glob("book/results/benchmarks/*.json"),
            glob("book/results/checkpoints/*.*"),
            [f for f in glob("kdlib/**", recursive=True) if Path(f).suffix in (".py", ".js", ".css", ".html")],
        output:
            pages_of(edition),
        log:
            f"_build/{edition.key}.log",
        params:
            edition=edition.key,
            computed=STUDY.name,
            switch=[each.key for each in EDITIONS],
        shell:
            "python -m kdlib book {params.edition:q} --computed={params.computed:q} > {log:q} 2>&1"


rule publish:
    default_target: STUDY.runs_only
    input:
        expand("{root}/{name}/{file}", root=ROOT, name=[r.name for r in STUDY.runs], file=NETWORK),
        [file for maps in MAPS.values() for file in of_maps(maps, MAP_TABLES)],
        of_maps(COMPARISON, [f"-{table}" for table in COMPARISON_TABLES]),
        of_maps(FILM, [f"-{table}" for table in FILM_TABLES]),
        code=["kdlib/cli.py", *code_of("kdlib/publish.py")],  # not what other commands use
    output:
        study=f"{PUBLISHED}/study.json",
        tables=expand("{to}/{table}.parquet", to=PUBLISHED, table=TABLES),
        sample=[f"{PUBLISHED}/{file}" for file in ("sample.webp", "sample.parquet", "provenance.parquet")],
        executed=expand("{to}/executed/{page}.ipynb", to=PUBLISHED, page=PAGES),
    params:
        study=fixed(STUDY_FILE),
        images=STUDY.source.hash,
    shell:
        "python -m kdlib publish {params.study:q} --device {DEVICE}"


rule teacher:
    priority: MAPS_FIRST + len(STUDY.kernels)
    input:
        **needs("teacher"),  # a file of weights counts by its content, which is in the run's name
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
        images=STUDY.source.hash,
    resources:
        **GPU,
    shell:
        RUN_NETWORKS


# Students of one teacher, label budget and seed are trained side by side: its outputs serve all.
for number, (name, kernel) in enumerate(STUDY.kernels.items()):

    rule:
        name:
            f"student_{name.replace('/', '-')}"
        priority: MAPS_FIRST + len(STUDY.kernels) - number  # all of the first seed, then of the next
        input:
            **needs("student"),
            teacher=expand("{root}/{name}/{file}", root=ROOT, name=kernel.teacher_runs, file=TRAINED),
        output:
            expand(
                "{root}/{name}/{file}",
                root=ROOT,
                name=[run.name for run in kernel.each],
                file=[*TRAINED, "history.parquet"],
            ),
            [f"{ROOT}/{run.name}/snapshots.safetensors" for run in kernel.each if run.snapshots],
        log:
            f"{ROOT}/students/{name}.ipynb",
        params:
            settings=fixed(settings_of(kernel)),
            images=STUDY.source.hash,
        resources:
            **GPU,
        shell:
            RUN_NETWORKS


# Networks of one label budget and seed share a kernel, or of one seed (`kernels_by`).
for block, members in STUDY.blocks.items():

    rule:
        name:
            f"features_{block}"
        priority: FEATURES_FIRST
        input:
            **needs("features"),
            networks=expand(
                "{root}/{name}/{file}", root=ROOT, name=[r.name for r in members], file=TRAINED
            ),
        output:
            expand("{root}/{name}/features.safetensors", root=ROOT, name=[r.name for r in members]),
        log:
            f"{ROOT}/features/{block}.ipynb",
        params:
            settings=fixed(settings(STUDY.features_of(block))),
            images=STUDY.source.hash,
        resources:
            **GPU,
        shell:
            RUN_NETWORKS

    rule:
        name:
            f"measure_{block}"
        input:
            **needs("measure"),
            networks=expand(
                "{root}/{name}/features.safetensors",
                root=ROOT,
                name=sorted(
                    {r.name for r in members} | {r.teacher_run for r in members if r.role == "student"}
                ),
            ),
        output:
            expand(
                "{root}/{name}/{file}", root=ROOT, name=[r.name for r in members], file=MEASURED
            ),
        log:
            f"{ROOT}/measures/{block}.ipynb",
        params:
            settings=fixed(settings(STUDY.measures_of(block))),
        shell:
            RUN_MEASURE


for maps in MAPS.values():

    rule:
        name:
            f"maps_{maps.name}"
        priority: MAPS_FIRST
        input:
            **needs("embed"),
            networks=expand("{root}/{name}/features.safetensors", root=ROOT, name=maps.networks),
        output:
            of_maps(maps, MAP_TABLES),
        log:
            f"{ROOT}/maps/{maps.name}.ipynb",
        params:
            settings=fixed(settings(maps)),
        threads: map_threads
        shell:
            RUN_MAPS


if COMPARISON:

    rule compare:
        priority: MAPS_FIRST + 1  # the longest
        input:
            **needs("compare"),
            networks=expand(
                "{root}/{name}/features.safetensors", root=ROOT, name=COMPARISON.networks
            ),
        output:
            of_maps(COMPARISON, [f"-{table}" for table in COMPARISON_TABLES]),
        log:
            f"{ROOT}/maps/{COMPARISON.name}.ipynb",
        params:
            settings=fixed(settings(COMPARISON)),
        threads: map_threads
        shell:
            RUN_MAPS


if FILM:

    rule film:
        priority: MAPS_FIRST
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
                name=sorted({run.teacher_run for run in STUDY.film_students}),
            ),
        output:
            of_maps(FILM, [f"-{table}" for table in FILM_TABLES]),
        log:
            f"{ROOT}/maps/{FILM.name}.ipynb",
        params:
            settings=fixed(settings(FILM)),
            images=STUDY.source.hash,
        threads: map_threads
        resources:
            **GPU,
        shell:
            RUN_FILM

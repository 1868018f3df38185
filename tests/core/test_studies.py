"""Studies: substitution, cells, addresses, and running a grid once."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgeon
from surgeon.errors import RunError, StudyError, SurgeonError
from surgeon.recipe import Recipe
from surgeon.studies import Study, resume_study, run_study
from surgeon.studies.addresses import Hashes, Setup, digest_of_run
from surgeon.studies.schedule import Schedule
from surgeon.studies.study import studies_of
from surgeon.studies.substitution import scalar_text, substituted

# --- substitution

SCALARS = st.integers(-9, 9) | st.booleans() | st.floats(-2, 2) | st.text("ab ", max_size=3)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
)


@given(TREES)
def test_a_tree_without_holes_is_as_it_was(tree):
    assert substituted(tree, {"k": 1}) == tree


@given(TREES, SCALARS)
def test_a_hole_alone_gives_the_value_with_its_type(tree, scalar):
    for value in (tree, scalar):
        put = substituted({"a": "${k}"}, {"k": value})["a"]
        assert put == value
        assert type(put) is type(value)


@given(st.lists(TREES, max_size=3), st.lists(SCALARS, max_size=3))
def test_a_list_in_a_list_is_spliced(value, others):
    assert substituted([*others, "${k}", "end"], {"k": value}) == [*others, *value, "end"]
    assert substituted([*others, ["${k}"]], {"k": value}) == [*others, value]  # in its own list


@given(SCALARS, SCALARS)
def test_within_a_text_the_values_text_is_put(first, second):
    values = {"a": first, "t": {"b": second}}
    expected = f"<{scalar_text(first)}-{scalar_text(second)}>"
    assert substituted("<${a}-${t.b}>", values) == expected


@given(TREES)
def test_what_is_given_is_left_as_it_was(tree):
    given_tree, values = {"a": ["${k}", tree]}, {"k": {"b": [tree]}}
    before = copy.deepcopy((given_tree, values))
    substituted(given_tree, values)["a"].append(1)
    assert (given_tree, values) == before


def test_values_may_hold_holes_and_dollars_can_be_written():
    values = {"part": {"operations": [{"site": "blocks[${k}]"}]}, "k": 2}
    assert substituted(["${part.operations}"], values) == [{"site": "blocks[2]"}]
    assert substituted("$${k} costs $5", values) == "${k} costs $5"


@pytest.mark.parametrize(
    ("text", "values", "found", "hint"),
    [
        ("${j}", {"k": 1}, 'no axis "j"', "k"),
        ("${p.stesp}", {"p": {"steps": 1}}, 'no field "stesp"', "steps"),
        ("${k.steps}", {"k": 1}, "is no table", "${k}"),
        ("a ${k}", {"k": [1]}, "is a list", '"${k}" alone'),
        ("${k}", {"k": "${l}", "l": ["${k}"]}, "holds itself", "without it"),
    ],
)
def test_what_cannot_be_put_is_said(text, values, found, hint):
    with pytest.raises(StudyError) as error:
        substituted({"recipe": [text]}, values)
    assert found in error.value.found
    assert hint in error.value.hint
    assert "recipe[0]" in error.value.asked


# --- files


def table(**changes):
    return {
        "schema": 1,
        "title": "Depth",
        "probes": ["invert"],
        "axes": {"k": [0, 1], "image": ["surgeon:rocket", "surgeon:coffee"]},
        "recipe": {
            "model": {"name": "surgeon/vit_fashion", "weights": "fashion"},
            "operations": [{"op": "truncate", "site": "blocks[${k}]"}],
            "input": {"image": "${image}"},
            "probes": {"invert": {"method": "adam", "steps": 3}},
        },
        **changes,
    }


FILE = """\
schema = 1
title = "Depth"
probes = ["invert"]
[axes]
k = [0, 1]
[recipe.model]
name = "surgeon/vit_fashion"
[[recipe.operations]]
op = "truncate"
site = "blocks[${k}]"
[[skip]]
when = { k = 1 }
[[findings]]
claim = "so it is"
check = "above"
figure = "psnr"
threshold = 3.0
[[curves]]
figure = "psnr"
along = "k"
"""


@pytest.mark.parametrize(
    ("old", "new", "asked", "found", "hint"),
    [
        ("title", "titel", "titel (s.toml, line 2)", "no such key", "title"),
        ('title = "Depth"', "title = 3", "title (s.toml, line 2)", "valid string", ""),
        ("schema = 1", "schema = 2", "schema (s.toml, line 1)", "schema 1", "schema = 1"),
        ("k = [0, 1]", "k = []", "axes.k (s.toml, line 5)", "no values", ""),
        ("k = [0, 1]", "k = [0, 0]", "axes.k (s.toml, line 5)", 'two values are called "0"', ""),
        ("k = [0, 1]", "k = [{a = 1}]", "axes.k (s.toml, line 5)", "without a label", "label"),
        ("k = [0, 1]", "site = [0]", "axes.site (s.toml, line 5)", "column", "site_"),
        ("k = 1 }", "j = 1 }", "skip[0].when.j (s.toml, line 12)", "no such axis", "k"),
        ("k = 1 }", "k = 7 }", "skip[0].when.k (s.toml, line 12)", 'called "7"', "0"),
        ('"above"', '"abov"', "check (s.toml, line 15)", '"abov"', "above"),
        ("threshold", "thresold", "findings[0].thresold (s.toml, line 17)", "no such key", "thr"),
        ("threshold = 3.0", "", "findings[0].threshold (s.toml, line 13)", "missing", ""),
        ('along = "k"', 'along = "j"', "curves[0].along (s.toml, line 20)", 'no axis "j"', "k"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(old, new, asked, found, hint):
    with pytest.raises(StudyError) as error:
        Study.from_toml(FILE.replace(old, new), source="s.toml")
    assert error.value.asked == asked
    assert found in error.value.found
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("old", "new", "asked"),
    [
        ('op = "truncate"', 'op = "truncat"', "s.toml, line 9, operations[0].op) (cell k=0)"),
        ("${k}", "${j}", '"${j}" in operations[0].site (s.toml, line 10) (cell k=0)'),
        ("name =", "nam =", "model.nam (s.toml, line 7) (cell k=0)"),
        ('probes = ["invert"]', 'probes = ["invrt"]', '"invrt" (cell k=0, invrt)'),
    ],
)
def test_errors_of_cells_name_the_cell_too(old, new, asked):
    with pytest.raises(SurgeonError) as error:
        Study.from_toml(FILE.replace(old, new), source="s.toml").cells()
    assert asked in error.value.asked


def test_a_recipe_may_be_a_file_or_packaged_and_have_holes(tmp_path):
    recipe = {"model": {"name": "surgeon/vit_fashion"}, "probes": {"invert": {"steps": "${n}"}}}
    import tomli_w

    Path("own.toml").write_text(tomli_w.dumps(recipe))
    study = Study.from_dict({"title": "x", "axes": {"n": [3, 4]}, "recipe": "own.toml"})
    assert [c.recipe.probes["invert"]["steps"] for c in study.cells()] == [3, 4]
    study = Study.from_dict(
        {"title": "x", "axes": {"r": ["surgeon:bypass", "surgeon:swap"]}, "recipe": "${r}",
         "probes": ["invert"]}
    )  # fmt: skip
    expected = [Recipe.read(f"surgeon:{name}").operations for name in ("bypass", "swap")]
    assert [cell.recipe.operations for cell in study.cells()] == expected


def test_overrides_reach_axes_and_recipe():
    study = Study.from_toml(FILE, source="s", name="s", overrides=[])
    Path("s.toml").write_text(FILE)
    changed = Study.read(
        "s.toml", ["axes.k=[1, 2]", "recipe.probes.invert.steps=7", "skip=[]", 'title="T"']
    )
    assert (study.name, changed.name, changed.title) == ("s", "s", "T")
    assert [c.labels["k"] for c in changed.cells()] == ["1", "2"]
    assert changed.cells()[0].recipe.probes["invert"]["steps"] == 7
    assert Study.from_toml(changed.to_toml()).cells() == changed.cells()


# --- cells

AXES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    max_size=3,
)


@given(AXES, st.data())
def test_cells_are_the_product_without_what_is_skipped(axes, data):
    skips = []
    if axes:
        for _ in range(data.draw(st.integers(0, 2))):
            chosen = data.draw(st.lists(st.sampled_from(sorted(axes)), min_size=1, unique=True))
            skips.append(
                {a: data.draw(st.lists(st.sampled_from(axes[a]), min_size=1)) for a in chosen}
            )
    study = Study.from_dict(
        {"title": "x", "probes": ["invert", "filters"], "axes": axes,
         "recipe": {"model": {"name": "surgeon/vit_fashion"}},
         "skip": [{"when": when, "why": "so"} for when in skips]}
    )  # fmt: skip
    expected = [
        ({a: str(v) for a, v in zip(axes, values, strict=True)}, probe)
        for values in itertools.product(*axes.values())
        for probe in ("invert", "filters")
        if not any(
            all(dict(zip(axes, values, strict=True))[a] in allowed for a, allowed in when.items())
            for when in skips
        )
    ]
    assert [(cell.labels, cell.probe) for cell in study.cells()] == expected
    assert len(study.grid()) == 2 * len(list(itertools.product(*axes.values())))


def test_a_probe_alone_can_be_skipped_and_settings_of_others_are_left_out():
    study = Study.from_dict(
        table(probes=["invert", "filters"], skip=[{"when": {"probe": "filters", "k": 1}}])
    )
    assert [c.probe for c in study.cells() if c.labels["k"] == "1"] == ["invert", "invert"]
    assert all(set(cell.recipe.probes) == {cell.probe} for cell in study.cells())


def test_groups_of_packaged_studies(tmp_path):
    class Plugin:
        @staticmethod
        @surgeon.hookimpl
        def register_studies(register):
            for name, tier in (("10", "named"), ("9", "packaged"), ("2", "packaged")):
                file = tmp_path / f"{name}.toml"
                file.write_text(f'tier = "{tier}"\n' + FILE)
                register(f"many/{name}", str(file), summary="x")

    registry = surgeon.registry.registry()
    registry.register("many", Plugin(), "tests 1")
    try:
        assert studies_of("surgeon:many") == [f"surgeon:many/{n}" for n in (2, 9, 10)]
        assert studies_of("surgeon:many", "packaged") == ["surgeon:many/2", "surgeon:many/9"]
        assert studies_of("surgeon:many/9") == ["surgeon:many/9"]
        with pytest.raises(StudyError):
            studies_of("surgeon:man")
    finally:
        registry.unregister("many")


# --- addresses

DEFAULT = Setup()
BASE = {
    "model": {"name": "surgeon/vit_fashion", "weights": "fashion", "seed": 0},
    "operations": [{"op": "truncate", "site": "blocks[1]"}, {"op": "bypass", "site": "blocks[0]"}],
    "input": {"image": "surgeon:rocket", "normalize": True},
    "probes": {"invert": {"steps": 5, "method": "adam", "seeds": [0]}},
}
CHANGES = {
    "model.name": "surgeon/mixer_fashion", "model.seed": 1, "input.image": "surgeon:coffee",
    "input.normalize": False, "probes.invert.steps": 6, "probes.invert.method": "descent",
    "probes.invert.seeds": [1], "operations": BASE["operations"][:1],
    "model.options": {"img_size": 28},
}  # fmt: skip


def digest(tables, probe="invert", setup=DEFAULT):
    import tomli_w

    return digest_of_run(Recipe.from_toml(tomli_w.dumps(tables)), probe, setup, Hashes())


def changed(key, value):
    from surgeon.toml_files import apply_override

    tables = copy.deepcopy(BASE)
    apply_override(tables, f"{key}=0")
    *path, last = key.split(".")
    inner = tables
    for part in path:
        inner = inner[part]
    inner[last] = value
    return tables


@given(st.randoms(use_true_random=False))
def test_an_address_does_not_depend_on_the_order_of_keys(chance):
    def shuffled(node):
        if not isinstance(node, dict):
            return node
        keys = list(node)
        chance.shuffle(keys)
        return {key: shuffled(node[key]) for key in keys}

    assert digest(shuffled(BASE)) == digest(BASE)


def test_every_change_changes_the_address():
    found = {digest(BASE)} | {digest(changed(key, value)) for key, value in CHANGES.items()}
    others = [Setup(dtype="float64"), Setup(device="cuda"), Setup(threads=2)]
    found |= {digest(BASE, setup=setup) for setup in others} | {digest(BASE, "diagnose")}
    assert len(found) == 2 + len(CHANGES) + len(others)


def test_another_probes_settings_are_none_of_a_runs_address():
    assert digest(changed("probes.filters", {"null_filters": 3})) == digest(BASE)


def test_files_count_by_content(tmp_path, monkeypatch):
    from surgeon.imaging.files import find_images
    from surgeon.studies import addresses

    photo, weights = Path("photo.png"), Path("weights.safetensors")
    shutil.copy(find_images("surgeon:rocket")[0], photo)
    weights.write_bytes(b"one")
    tables = changed("input.image", "photo.png")
    tables["model"]["weights"] = str(weights)
    tables["probes"]["dream"] = {"guide": "photo.png"}

    def both():
        return digest(tables), digest(tables, "dream")

    first = both()
    shutil.copy(find_images("surgeon:coffee")[0], photo)
    second = both()
    weights.write_bytes(b"two")
    third = both()
    assert len({*first, *second, *third}) == 6
    versions = {**addresses.versions(), "torch": "0"}
    monkeypatch.setattr(addresses, "versions", lambda: versions)
    assert both()[0] not in {*first, *second, *third}


def test_a_files_hash_is_remembered_while_size_and_time_stay(tmp_path):
    file, memory = tmp_path / "f", tmp_path / "memory.json"
    file.write_bytes(b"one")
    hashes = Hashes(memory)
    first = hashes.of(file)
    hashes.save()
    again = Hashes(memory)
    assert again.of(file) == first
    assert not again.changed
    file.write_bytes(b"three")
    assert again.of(file) != first
    memory.write_text("broken")
    assert Hashes(memory).of(file) == again.of(file)


# --- the schedule


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 3), st.randoms())
def test_a_worker_takes_each_model_at_most_once_and_every_job_is_taken_once(keys, workers, chance):
    schedule = Schedule(keys)
    taken: list[tuple[int, int]] = []
    live = list(range(workers))
    while live:
        worker = chance.choice(live)
        number = schedule.take(worker)
        if number is None:
            live.remove(worker)
        else:
            taken.append((worker, number))
    assert sorted(number for _, number in taken) == list(range(len(keys)))
    for worker in range(workers):
        seen = [keys[number] for w, number in taken if w == worker]
        changes = [key for i, key in enumerate(seen) if i == 0 or seen[i - 1] != key]
        assert len(changes) == len(set(changes))


def test_a_second_worker_takes_a_model_nobody_has_then_helps_with_the_longest():
    schedule = Schedule("aaab")
    assert [schedule.take(0), schedule.take(1), schedule.take(1), schedule.take(0)] == [0, 3, 1, 2]
    assert schedule.take(0) is schedule.take(1) is None
    schedule.put_back(3, "b")
    assert schedule.take(0) == 3


# --- running


def bytes_of(*folders):
    return {
        path.relative_to(folder.parent): path.read_bytes()
        for folder in folders for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("timing.json", ".hashes.json")
        and ".locks" not in path.parts and path.name != "report.html"
    }  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A study that ran undisturbed: its folder and its store."""
    root = tmp_path_factory.mktemp("reference")
    result = run_study(study_of_two(), root / "out", store=root / "store", report=False)
    return root, result


def study_of_two():
    return Study.from_dict(
        table(
            axes={"k": [0, 1], "image": ["surgeon:rocket", "surgeon:coffee"]},
            skip=[{"when": {"k": 1, "image": "surgeon:coffee"}, "why": "to be quick"}],
            findings=[{"claim": "c", "check": "above", "figure": "psnr", "threshold": -9.0}],
        ),
        name="two",
    )


def test_a_study_writes_what_it_says(reference):
    root, result = reference
    record = json.loads((root / "out" / "study.json").read_text())
    assert record["axes"] == {"k": ["0", "1"], "image": ["surgeon:rocket", "surgeon:coffee"]}
    assert [c["status"] for c in record["cells"]] == ["done", "done", "done", "skipped"]
    assert record["cells"][3]["why"] == "to be quick"
    for cell in record["cells"][:3]:
        run = (root / "out" / cell["run"]).resolve()
        assert run.parent == (root / "store").resolve()
        assert json.loads((run / "run.json").read_text())["threads"] == 1
    assert record["findings"][0]["verdict"] == "confirmed"
    assert {p.name for p in (root / "out").iterdir()} == {
        "study.json", "study.toml", "table.csv", "table.json", "figure.png", "timing.json",
    }  # fmt: skip
    assert result.made == 3
    assert not result.failed
    lines = (root / "out" / "table.csv").read_text().splitlines()
    assert lines[0].startswith("k,image,probe,site,")
    assert len(lines) == 4
    row = result.table.where(k=1).rows[0]
    assert row.load()["figures"][row.site] == row.figures
    assert any(name.startswith("image/") for name in row.tensors())


def test_a_finished_run_is_never_repeated_and_shared_between_studies(reference, monkeypatch):
    root, _ = reference
    before = bytes_of(root / "store")

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("surgeon.sources.load_model", load)
    again = run_study(study_of_two(), "again", store=root / "store", report=False)
    other = Study.from_dict(table(axes={"image": ["surgeon:rocket"], "k": [1]}, title="Other"))
    shared = run_study(other, "other", store=root / "store", report=False)
    assert (again.made, shared.made) == (0, 0)
    assert len(shared.table) == 1
    assert bytes_of(root / "store") == before


def test_a_finished_study_is_shown_again_without_torch(reference):
    root, _ = reference
    code = (
        "import sys; from surgeon.studies import Study, run_study;"
        f"r = run_study(Study.read({str(root / 'out' / 'study.toml')!r}), 'out',"
        f" store={str(root / 'store')!r});"
        "assert r.made == 0 and len(r.table) == 3; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_model_is_loaded_once(monkeypatch):
    import surgeon.sources as sources

    loaded, load = [], sources.load_model
    monkeypatch.setattr(
        sources, "load_model", lambda spec, **k: (loaded.append(spec.name), load(spec, **k))[1]
    )
    study = Study.from_dict(
        table(
            axes={"k": [0, 1], "m": ["surgeon/vit_fashion", "surgeon/mixer_fashion"]},
            recipe={
                "model": {"name": "${m}"},
                "operations": [{"op": "truncate", "site": "blocks[${k}]"}],
                "input": {"image": "surgeon:rocket"},
                "probes": {"invert": {"method": "adam", "steps": 2}},
            },
        )
    )
    result = run_study(study, "out", store="store", report=False)
    assert result.made == 4
    assert sorted(loaded) == ["surgeon/mixer_fashion", "surgeon/vit_fashion"]


def test_one_model_is_in_memory_at_a_time():
    import weakref

    from surgeon.studies.jobs import Job, Loaded, make_run

    jobs = [
        Job(Recipe(name, seed=0, probes={"filters": {"null_filters": 4}}), "filters",
            Path("store", name), Setup())
        for name in ("surgeon/vit_fashion", "surgeon/mixer_fashion")
    ]  # fmt: skip
    loaded = Loaded()
    make_run(jobs[0], loaded)
    first = weakref.ref(loaded.get(jobs[0]))
    assert loaded.count == 1
    make_run(jobs[1], loaded)
    assert first() is None
    assert loaded.count == 2


def test_a_model_that_was_changed_is_loaded_anew():
    from surgeon.studies.jobs import Job, Loaded

    job = Job(Recipe("surgeon/vit_fashion"), "filters", Path("run"), Setup())
    loaded = Loaded()
    model = loaded.get(job)
    loaded.check()
    assert loaded.get(job) is model
    model.head.bias.data.add_(1)
    model.train()
    loaded.check()
    assert loaded.get(job) is not model


def test_a_cell_that_fails_costs_itself_alone_and_is_tried_again():
    study = Study.from_dict(table(axes={"k": [9, 0], "image": ["surgeon:rocket", "no.png"]}))
    result = run_study(study, "out", store="store", report=False)
    record = json.loads(Path("out/study.json").read_text())
    assert [c["status"] for c in record["cells"]] == ["failed", "failed", "done", "failed"]
    assert "blocks[9]" in record["cells"][0]["error"][0]
    assert len(result.table.missing) == 3
    shutil.copy(find("surgeon:coffee"), "no.png")
    again = resume_study("out")
    assert [c.status for c in again.cells] == ["failed", "failed", "done", "done"]
    assert again.made == 1


def find(image):
    from surgeon.imaging.files import find_images

    return find_images(image)[0]


class Breaking:
    """Interrupts after so many shows of progress."""

    def __init__(self, after):
        self.left = after

    def at(self, progress, text, *, last=False):
        assert 0 <= progress <= 1
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [2, 4, 7, 9])
def test_interrupted_and_resumed_it_ends_with_the_same_bytes(reference, after):
    root, _ = reference
    with pytest.raises(KeyboardInterrupt):
        run_study(study_of_two(), "out", store="store", report=False, progress=Breaking(after))
    assert Path("out/underway.json").exists()
    record = json.loads(Path("out/study.json").read_text())
    assert [c["status"] for c in record["cells"]].count("done") == after // 4
    assert resume_study("out").made == 3 - after // 4
    assert bytes_of(Path("out"), Path("store")) == bytes_of(root / "out", root / "store")
    with pytest.raises(RunError, match="has ended"):
        resume_study("out")


def test_a_full_disk_costs_runs_and_not_the_study(reference, monkeypatch):
    import surgeon.runs.store as runs

    root, _ = reference

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_tensors", full)
        result = run_study(study_of_two(), "out", store="store", report=False)
    assert len(result.failed) == 3
    assert "No space left" in result.failed[0].error[1]
    assert not resume_study("out").failed
    assert bytes_of(Path("out"), Path("store")) == bytes_of(root / "out", root / "store")


def test_what_a_killed_process_left_is_cleared(reference):
    root, result = reference
    store = Path("store")
    name = result.cells[0].run.name
    for left in (store / f".{name}-abcd1234", store / name):
        left.mkdir(parents=True)
        (left / ".run.json.partial").write_text("{")
    (store / f".{name}-other-abcd1234").mkdir()  # of a run called name-other
    run_study(study_of_two(), "out", store=store, report=False)
    assert (store / f".{name}-other-abcd1234").exists()
    shutil.rmtree(store / f".{name}-other-abcd1234")
    assert bytes_of(store) == bytes_of(root / "store")


def test_a_folder_with_other_files_is_left_alone():
    Path("out").mkdir()
    Path("out/mine.txt").write_text("x")
    with pytest.raises(RunError, match=r"mine\.txt"):
        run_study(study_of_two(), "out", store="store")
    assert not Path("store").exists()


@pytest.mark.slow
def test_several_workers_give_the_bytes_of_one(reference):
    root, _ = reference
    result = run_study(study_of_two(), "out", store="store", workers=2, report=False)
    assert result.made == 3
    assert bytes_of(Path("out"), Path("store")) == bytes_of(root / "out", root / "store")


def test_a_worker_that_dies_is_tried_once_more_then_its_cell_has_failed(monkeypatch):
    from surgeon.studies import workers

    code = "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(workers, "_COMMAND", (sys.executable, "-c", code))
    result = run_study(study_of_two(), "out", store="store", workers=2, report=False)
    assert len(result.failed) == 3
    assert "twice, by signal 9" in result.failed[0].error[1]


def test_the_order_of_results_is_the_grids_whatever_was_made_first(reference):
    root, result = reference
    study = study_of_two()
    store = Path("store")
    shutil.copytree(root / "store", store)
    shutil.rmtree(store / result.cells[0].run.name)
    again = run_study(study, "out", store=store, report=False)
    assert again.made == 1
    assert [r.labels for r in again.table] == [r.labels for r in result.table]
    assert (Path("out") / "table.csv").read_text() == (root / "out" / "table.csv").read_text()


def test_a_dry_run_measures_and_writes_nothing(reference):
    from surgeon.studies.estimate import estimate

    root, _ = reference
    found = estimate(study_of_two(), root / "store", Setup())
    assert (found.cells, found.made, found.runs, found.groups) == (3, 3, 0, ())
    assert found.seconds == 0
    fresh = estimate(study_of_two(), Path("elsewhere"), Setup())
    assert (fresh.made, fresh.runs) == (0, 3)
    (group,) = fresh.groups
    assert group.sampled == 3
    assert fresh.seconds > 0
    assert fresh.peak_bytes is None or fresh.peak_bytes > 1e8
    assert not Path("elsewhere").exists()

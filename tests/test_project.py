"""The project as a whole: what its package imports, what it declares, and what its own files say of it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import box

import napari_histolatent
from napari_histolatent.annotations import check_annotations, read_annotations
from napari_histolatent.jobs.demo_slide import shipped_regions

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "napari_histolatent"
QT = ("PyQt5", "PyQt6", "PySide2", "PySide6", "qtpy")

pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="the tests are not beside the source")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# What an import costs


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh Python holds after a statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "statement",
    [
        "import napari_histolatent",
        "from napari_histolatent import Run, UserError, open_slide, read_annotations, PatchDataset",
        "import napari_histolatent.cli._app, napari_histolatent.jobs.follow, napari_histolatent.jobs.kinds",
    ],
)
def test_an_import_brings_neither_torch_nor_qt_nor_napari(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "napari_histolatent" in loaded
    assert loaded & {"torch", "captum", "napari", "magicgui", "superqt", "pyqtgraph", *QT} == set()


def test_the_bare_import_brings_nothing_that_is_slow() -> None:
    assert (
        loaded_by("import napari_histolatent") & {"numpy", "scipy", "zarr", "pyarrow", "openslide"} == set()
    )


# Who may import whom


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("import-linter is not installed beside this Python")
    return subprocess.run(
        [command, "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root / "src"), "PATH": "", "HOME": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its contracts."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def test_the_contracts_of_imports_are_kept() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", result.stdout)


def test_a_copy_is_checked_like_the_original(copy: Path) -> None:
    assert lint(copy).returncode == 0


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("patches/_grid.py", "import torch"),
        ("slides/_info.py", "import napari_histolatent.training"),
        ("jobs/edits.py", "import qtpy"),
        ("latent/draw.py", "from napari_histolatent.models import _dcgan_modern"),
        ("runs/_index.py", "from napari_histolatent.jobs import kinds"),
    ],
)
def test_an_import_that_is_not_allowed_is_found(copy: Path, module: str, statement: str) -> None:
    file = copy / "src" / "napari_histolatent" / module
    # In a function: the contracts are about the house, not about the moment.
    file.write_text(f"{file.read_text()}\n\ndef _sneak() -> None:\n    {statement}\n")
    result = lint(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(r"[1-9]\d* broken", result.stdout)
    assert module.removesuffix(".py").replace("/", ".") in result.stdout


# What is declared


def imports_of(file: Path) -> set[str]:
    """Return the top-level names of everything a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {item.name.partition(".")[0] for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name, maxsplit=1)[0]).lower()


def test_every_package_that_is_imported_is_declared(pyproject: dict[str, Any]) -> None:
    core = {plain(item) for item in pyproject["project"]["dependencies"]}
    extras = {plain(item) for item in pyproject["project"]["optional-dependencies"]["all"]}
    # Imported only where somebody asks for a scheduler, for a film, for that network, for that format.
    extra_of = {
        "_dask_workers.py": "cluster",
        "exporting.py": "video",
        "_inception.py": "inception",
        "_onnx.py": "onnx",
        "_tensorboard.py": "tensorboard",
    }
    distributions = importlib.metadata.packages_distributions()
    missing = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        in_napari = file.is_relative_to(PACKAGE / "_napari")
        declared = core | extras if in_napari else core
        if file.name in extra_of:
            extra = pyproject["project"]["optional-dependencies"][extra_of[file.name]]
            declared = core | {plain(item) for item in extra}
        for name in imports_of(file) - set(sys.stdlib_module_names) - {"napari_histolatent"}:
            owners = {plain(owner) for owner in distributions.get(name, [name])}
            if not owners & declared:
                missing.setdefault(name, str(file.relative_to(PACKAGE)))
    # What another package brings along today, it may leave at home tomorrow.
    assert missing == {}


def test_the_version_is_one(pyproject: dict[str, Any]) -> None:
    assert pyproject["project"]["dynamic"] == ["version"]
    assert "version" not in pyproject["project"]
    source = (ROOT / pyproject["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE) == [napari_histolatent.__version__]


def test_the_installed_package_is_of_this_version_and_has_its_command() -> None:
    distribution = importlib.metadata.distribution("napari-histolatent")
    assert distribution.version == napari_histolatent.__version__
    points = {point.name: point.value for point in distribution.entry_points}
    assert points["histolatent"] == "napari_histolatent.cli:main"
    assert points["napari-histolatent"] == "napari_histolatent_manifest:napari.yaml"


def test_the_readme_holds_the_test_command_that_ci_runs(pyproject: dict[str, Any]) -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("there is no CI script yet")
    # CI takes the command out of the README with this, so that the two cannot differ.
    (take_out,) = re.findall(r'bash -c "\$\((sed .*README\.md.*)\)"', script.read_text(encoding="utf-8"))
    result = subprocess.run(["bash", "-c", take_out], cwd=ROOT, capture_output=True, text=True, check=True)
    (command,) = result.stdout.splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert command in readme.splitlines()
    assert command.split(" && ")[-1].split()[0] == "pytest"
    (extras,) = re.findall(r'-e "\.\[(.+)\]"', command)
    assert set(extras.split(",")) <= set(pyproject["project"]["optional-dependencies"])
    assert "test" in extras.split(",")
    (constraints,) = re.findall(r"-c (\S+)", command)
    assert (ROOT / constraints).is_file()


def test_the_readme_names_commands_that_exist() -> None:
    import typer

    from napari_histolatent.cli import app

    root: Any = typer.main.get_command(app)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for line in readme.splitlines() if line.startswith("histolatent ")]
    assert lines
    for line in lines:
        words = line.partition("#")[0].split()[1:]
        if words[0].startswith("--"):
            continue
        command = root.commands[words[0]]
        if hasattr(command, "commands"):
            command = command.commands[words[1]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


# Data that comes with the package


def test_the_regions_of_the_demo_slide_lie_on_it() -> None:
    path = shipped_regions()
    assert path.parent.name == "jobs"
    annotations = read_annotations(path)
    checked = check_annotations(annotations)
    assert set(checked.classes) == {"epithelium", "stroma"}
    assert (checked.repaired, checked.dropped, checked.points, checked.messages) == (0, 0, 0, ())
    slide = box(0, 0, 2220, 2967)
    for region in annotations.regions:
        assert region.geometry.is_valid
        assert slide.covers(region.geometry), region.name
    for i, one in enumerate(annotations.regions):
        for other in annotations.regions[i + 1 :]:
            if one.class_name != other.class_name:
                assert one.geometry.intersection(other.geometry).area == 0, (one.name, other.name)


def test_the_data_of_the_package_is_not_left_out_of_it(pyproject: dict[str, Any]) -> None:
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["src/napari_histolatent"]
    assert "exclude" not in wheel
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    for name in ("jobs/demo_regions.geojson", "py.typed", "shipped/README.md"):
        assert (PACKAGE / name).is_file()
        ignored = subprocess.run(["git", "check-ignore", "-q", str(PACKAGE / name)], cwd=ROOT, check=False)
        assert ignored.returncode != 0, name  # what git ignores, hatchling leaves out

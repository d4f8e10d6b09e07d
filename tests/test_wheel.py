"""The wheel holds what the tree holds: an unlisted subpackage or data file would be left out in silence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "node", "encoder", "simulations")
SUFFIXES = (".py", ".html", ".safetensors", ".json", ".typed")


def test_the_wheel_holds_every_module_and_data_file_of_the_tree(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES, "__init__.py", "py.typed"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    files = tracked or [str(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("*")]
    expected = {f"edgecache/{file}" for file in files if file.endswith(SUFFIXES) and "__pycache__" not in file}
    tree = tmp_path / "tree"  # a copy: what an older build left beside the sources must not get in
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tree)],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("edgecache-")}
    assert held == expected

"""Check that a wheel holds what the source tree has: modules, configurations, kernels, type marker, licence."""

import shutil
import sys
import zipfile
from pathlib import Path


def main(wheel: str) -> None:
    """Exit with the list of what is missing from the wheel, or of what it has and should not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    package = Path(__file__).parent.parent / "lightning_sparse"
    expected = {
        str(path.relative_to(package.parent))
        for path in package.rglob("*")
        if path.suffix in (".py", ".yaml", ".c", ".h") or path.name == "py.typed"
    }
    if any(map(shutil.which, ("cc", "gcc", "clang"))):
        expected.add("lightning_sparse/execution/kernels/kernels.so")
    missing = sorted(expected - names)
    foreign = sorted(name for name in names - expected if ".dist-info/" not in name)
    licences = [name for name in names if name.endswith("LICENSE")]
    if missing or foreign or not licences:
        sys.exit(f"wheel: missing {missing}, foreign {foreign}, licence {licences}")
    print(f"wheel: {len(expected)} files of the package and the licence")


if __name__ == "__main__":
    main(sys.argv[1])

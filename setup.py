"""Compile the kernels where there is a C compiler; everything else about the package stands in setup.cfg."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

_KERNELS = Path("lightning_sparse") / "execution" / "kernels"


def _builder() -> ModuleType:
    """Return the module that compiles, without importing the package: it needs PyTorch, which isn't there yet."""
    spec = importlib.util.spec_from_file_location("build_kernels", Path(__file__).parent / _KERNELS / "build.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no module at {_KERNELS / 'build.py'}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildKernels(Command):
    """Compile the kernels into the package; without a compiler it is complete, too, and computes densely."""

    description = "compile the C kernels"
    user_options = ()

    def initialize_options(self) -> None:
        """Set what setuptools sets later."""
        self.build_lib: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Take over the folder of the build."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    @property
    def _folder(self) -> Path:
        return _KERNELS if self.editable_mode else Path(self.build_lib or "") / _KERNELS

    def run(self) -> None:
        """Compile."""
        builder = _builder()
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            builder.build(self._folder)
        except builder.BuildError as error:
            warnings.warn(f"lightning_sparse computes densely: its kernels were not compiled, {error}", stacklevel=2)

    def get_source_files(self) -> list[str]:
        """Return the sources, for the source distribution."""
        return [str(path) for path in sorted((_KERNELS / "sources").iterdir())]

    def get_outputs(self) -> list[str]:
        """Return what is made."""
        made = self._folder / _builder().LIBRARY
        return [str(made)] if made.exists() else []

    def get_output_mapping(self) -> dict[str, str]:
        """Return nothing: no file is a copy of another."""
        return {}


class Wheel(bdist_wheel):
    """A wheel for each platform, for all versions of Python: kernels are called by ctypes."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag."""
        return ("py3", "none", super().get_tag()[2])


class WithKernels(Distribution):
    """A package that has compiled code where there is a compiler."""

    def has_ext_modules(self) -> bool:
        """Tell whether the package belongs to one platform."""
        return _builder().find_compiler() is not None


class Build(build):
    """The build, with the kernels."""

    sub_commands = [*build.sub_commands, ("build_kernels", None)]  # noqa: RUF012  # setuptools' own attribute


setup(distclass=WithKernels, cmdclass={"build": Build, "build_kernels": BuildKernels, "bdist_wheel": Wheel})

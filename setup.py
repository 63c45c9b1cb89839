"""What pyproject.toml cannot say: the modules that are compiled. Nothing runs without them."""

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = (
    "helios.resp._wire",
    "helios.placement._glob",
    "helios.placement._points",
    "helios.placement._owners",
    "helios.engines.valkey._rdb",
    "helios.router._fast_path",
)

setup(
    ext_modules=cythonize(
        [Extension(name, [f"src/{name.replace('.', '/')}.pyx"]) for name in MODULES],
        include_path=["src"],
        compiler_directives={"language_level": "3"},
    )
)

"""pyproject.toml describes the package; this adds what it cannot say: a build begins with an empty build/lib.

pip builds in the clone. Without this, modules that an earlier build left there would get into the wheel, and those of
`mailkeep_server` from there to the server.
"""

import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class CleanBuild(build_py):
    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(cmdclass={"build_py": CleanBuild})

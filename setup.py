"""What pyproject.toml cannot say: the recipes and the page travel inside the package, under names of their own there.

As packages of other folders they would make of an editable install a finder behind Python's own, which takes a clone
called avb for the package, in the folder around it.
"""

from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = {"recipes": "avb/recipe_files", "web": "avb/web_files"}
LEFT_OUT = {"node_modules", "__pycache__"}


class BuildWithFiles(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # they are found where they are
            return
        for source, target in CARRIED.items():
            for path in sorted(Path(source).rglob("*")):
                if path.is_file() and not LEFT_OUT & {*path.parts}:
                    copy = Path(self.build_lib, target, path.relative_to(source))
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copyfile(path, copy)


setup(cmdclass={"build_py": BuildWithFiles})

"""`python -m tests.bad_input`, from the root: runs the matrix and writes docs/bad_input.md."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bad_input.matrix import main  # noqa: E402

sys.exit(main())

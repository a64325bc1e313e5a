"""The study's scripts lie beside its report; they are imported from there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "reports" / "known-truth"))

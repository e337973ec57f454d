import sys
from pathlib import Path

# What `fuzz_volume.py` imports beside itself when it is run as a script.
sys.path.insert(0, str(Path(__file__).parent))

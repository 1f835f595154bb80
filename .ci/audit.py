"""Ask pip-audit about every installed package, and say how many it could answer for.

Without a way to the list of known weaknesses nothing is known, which is told and is no failure; a weakness is one.
"""

from __future__ import annotations

import json
import subprocess
import sys

COMMAND = ["pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]


def main() -> int:
    """Print the outcome; returns the exit code."""
    done = subprocess.run([sys.executable, "-m", *COMMAND], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"Not audited: pip-audit gave no list ({done.stderr.strip().splitlines()[-1:]}).")
        return 0
    asked = [package for package in packages if "skip_reason" not in package]
    weak = [(package, entry) for package in asked for entry in package["vulns"]]
    for package, entry in weak:
        fixed = ", ".join(entry["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {entry['id']}, mended in {fixed}")
    print(f"{len(asked)} packages audited, {len(packages) - len(asked)} not known to the list, {len(weak)} weaknesses.")
    if not asked:
        print("Nothing is known: the list of weaknesses cannot be reached from here. Run this where it can.")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())

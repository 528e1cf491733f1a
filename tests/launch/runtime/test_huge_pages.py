"""A program that begins once more with huge pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from launch.runtime.huge_pages import restart_with_huge_pages
print("begun", file=sys.stderr, flush=True)
restart_with_huge_pages()
print(json.dumps([sys.argv[2:], os.environ.get("GLIBC_TUNABLES"), sys.prefix, os.getpid()]))
"""


@pytest.mark.parametrize("given", [None, "glibc.malloc.check=0"])
def test_a_script_restarts_once_with_its_arguments(tmp_path, given):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if given is not None:
        env["GLIBC_TUNABLES"] = given
    command = [sys.executable, str(script), str(ROOT), "--name=a b", "-v"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=60)
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    restarts = given is None and mode.is_file() and "[madvise]" in mode.read_text()
    words, tunables, *same = json.loads(out)
    assert words == ["--name=a b", "-v"] and same == [sys.prefix, process.pid]
    assert "glibc.malloc.hugetlb=1" in tunables.split(":") if restarts else tunables == given
    assert err.count("begun") == (2 if restarts else 1)

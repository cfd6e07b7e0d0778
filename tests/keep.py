"""Runs a program again and again, as launchd and systemd do, until its file of state is gone.

    keep.py STATE PROGRAM ARG…    the process that runs is written down in STATE

Whoever takes the file away or ends this wants the program gone too: nothing is started past that, and the file is never
made anew.
"""

import os
import signal
import subprocess
import sys
import time

state, command = sys.argv[1], sys.argv[2:]


def write_down(pid):
    """Whether the file is still there. In one piece, for whoever reads it meanwhile."""
    try:
        file = os.open(state, os.O_WRONLY)
    except FileNotFoundError:
        return False
    os.pwrite(file, f"{os.getpid()} {pid}".ljust(32).encode(), 0)
    os.close(file)
    return os.path.exists(state)


child = None
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    while os.path.exists(state):
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        if not write_down(child.pid):
            break
        child.wait()
        time.sleep(0.2)
finally:
    if child and child.poll() is None:
        child.terminate()

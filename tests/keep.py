"""Runs a program again and again, as launchd and systemd do, until its file of state is gone.

    keep.py STATE PROGRAM ARG…    the process that runs is written down in STATE
"""

import os
import subprocess
import sys
import time

state, command = sys.argv[1], sys.argv[2:]
while os.path.exists(state):
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    with open(state + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    # Whoever took the file away meanwhile wants the child gone too.
    if not os.path.exists(state):
        child.terminate()
        os.unlink(state + ".new")
    else:
        os.rename(state + ".new", state)
    child.wait()
    time.sleep(0.2)

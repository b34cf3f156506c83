import os
import subprocess
import sys
from dataclasses import replace

from igkd_search.identities import process_start, this_process


def test_workers_of_one_process_differ_only_in_their_owner() -> None:
    first, second = this_process(), this_process()
    assert first != second
    assert replace(first, owner=second.owner) == second


def test_a_process_is_known_by_its_start_until_it_ends() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(child.pid)
    assert started is not None
    assert started == process_start(child.pid) != process_start(os.getpid())
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(child.pid) is None, "a process that nobody has reaped works no more"
    child.wait()
    assert process_start(child.pid) is None


def test_only_a_process_of_this_host_and_boot_can_be_known_to_have_died() -> None:
    me = this_process()
    there = (me.host, me.boot_id, me.pid)
    assert not me.died_here(*there, me.process_started)
    assert me.died_here(*there, "1"), "another process has its pid"
    assert not me.died_here("elsewhere", me.boot_id, me.pid, "1")
    assert not me.died_here(me.host, "another boot", me.pid, "1")
    assert not me.died_here(None, None, me.pid, "1")

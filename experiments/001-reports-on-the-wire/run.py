"""Does the kernel speak IGMP for a socket that nobody reads: on join, when asked, on leave and on every kind of end?

Everything is heard at the far end of the cable; the querier is this script.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import wire
from lab import Namespace, pair
from verdict import Experiment, run
from wire import LEAVE, Tap, about

GROUP, OTHER, SHARED = "239.255.1.1", "239.255.1.2", "239.255.1.3"
ENDS = {"close": "239.255.2.1", "exit": "239.255.2.2", "kill9": "239.255.2.3"}
INTERVALS, RESPONSE_S, MARGIN_S = 4, 0.4, 0.2
REPEAT_S = 1.3  # IGMPv3 says each change twice, the second time within a second

HOLD = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
group, index = socket.inet_aton(sys.argv[1]), int(sys.argv[2])
s.setsockopt(0, socket.IP_ADD_MEMBERSHIP, struct.pack("=4s4si", group, bytes(4), index))
print("joined", flush=True)
end = sys.stdin.readline().strip()
if end == "close":
    s.close()
    print("closed", flush=True)
    sys.stdin.readline()
"""


def answered(querier: Tap, group: str, asked: str | None, version: int) -> bool:
    """One query interval: whether the group was reported within the response time."""
    querier.drain()
    querier.send(wire.query(asked, version=version, response_s=RESPONSE_S))
    return about(querier.listen(RESPONSE_S + MARGIN_S), group, {"IS_EX", "v2 report"}) > 0


def answers(exp: Experiment, relay: Namespace, querier: Tap, version: int) -> None:
    """A join, queries over several intervals, controls, and the leave, as one version of IGMP."""
    tag = f"v{version}"
    if version == 2:
        querier.send(wire.query(version=2))  # the host falls back, as behind an old querier
        time.sleep(RESPONSE_S + 0.1)
    exp.count(f"{tag}_answers_before_join", answered(querier, GROUP, None, version))
    querier.drain()
    helper = wire.helper(relay, GROUP)
    # Version 2 repeats its first report only after up to ten seconds.
    heard = querier.listen(REPEAT_S)
    exp.count(f"{tag}_join_heard", about(heard, GROUP, {"TO_EX", "v2 report"}) > 0)
    general = sum(answered(querier, GROUP, None, version) for _ in range(INTERVALS))
    exp.count(f"{tag}_general_queries_answered", general)
    exp.count(f"{tag}_group_queries_answered", sum(answered(querier, GROUP, GROUP, version) for _ in range(INTERVALS)))
    exp.count(f"{tag}_answers_for_a_group_not_joined", answered(querier, OTHER, OTHER, version))
    querier.drain()
    helper.close()
    heard = querier.listen(REPEAT_S, until=lambda message: message.kind in LEAVE)
    exp.count(f"{tag}_leave_on_close", about(heard, GROUP, LEAVE) > 0)
    exp.count(f"{tag}_answers_after_close", answered(querier, GROUP, GROUP, version))


def holder(relay: Namespace, group: str) -> subprocess.Popen[str]:
    """A process of its own that is a member of the group."""
    command = [sys.executable, "-c", HOLD, group, str(relay.index("eth0"))]
    process = relay.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def ends(exp: Experiment, relay: Namespace, querier: Tap) -> None:
    """Whether a leave follows each way in which a member can end, and none while another member is left."""
    members = {end: holder(relay, group) for end, group in ENDS.items()}
    shared = [wire.helper(relay, SHARED) for _ in range(2)]
    querier.listen(REPEAT_S)  # the joins and their repetitions are not what we count
    for end, process in members.items():
        if end == "kill9":
            process.kill()
        else:
            process.stdin.write(f"{end}\n")
            process.stdin.flush()
    shared[0].close()
    heard = querier.listen(REPEAT_S)
    for end, group in ENDS.items():
        exp.count(f"leave_on_{end}", about(heard, group, LEAVE) > 0)
    exp.count("leave_while_another_is_member", about(heard, SHARED, LEAVE) > 0)
    for process in members.values():
        process.kill()
        process.communicate()


def main(exp: Experiment) -> None:
    source, relay = pair()
    querier = Tap(source)
    answers(exp, relay, querier, 3)
    ends(exp, relay, querier)

    source, relay = pair()
    answers(exp, relay, Tap(source), 2)

    for tag in ("v3", "v2"):
        exp.claim(f"{tag}-join-is-reported", f"IGMP{tag}: a join sends a report", f"{tag}_join_heard == 1")
        exp.claim(
            f"{tag}-queries-are-answered",
            f"IGMP{tag}: every general and group query of {INTERVALS} intervals is answered",
            f"{tag}_general_queries_answered == {INTERVALS} and {tag}_group_queries_answered == {INTERVALS}",
        )
        exp.claim(
            f"{tag}-silent-otherwise",
            f"IGMP{tag}: no answer before the join, for another group, or after the leave",
            f"{tag}_answers_before_join + {tag}_answers_for_a_group_not_joined + {tag}_answers_after_close == 0",
        )
        exp.claim(f"{tag}-close-leaves", f"IGMP{tag}: closing the socket sends a leave", f"{tag}_leave_on_close == 1")
    exp.claim(
        "every-end-leaves",
        "a leave follows a close, an exit and a kill -9",
        "leave_on_close == 1 and leave_on_exit == 1 and leave_on_kill9 == 1",
    )
    exp.claim("last-member-only", "one of two members ending sends no leave", "leave_while_another_is_member == 0")


if __name__ == "__main__":
    run(main, __file__)

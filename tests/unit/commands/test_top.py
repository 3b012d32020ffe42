"""What `mcrelay top` makes of the relay's answers: speeds, the last minute, and lines that fit."""

from __future__ import annotations

import pytest

from mcrelay.commands import screen
from mcrelay.commands.choices import View, order, press
from mcrelay.commands.keyboard import named
from mcrelay.commands.screen import scaled, sparkline
from mcrelay.commands.top import PAUSE_SECONDS, pause
from mcrelay.commands.trends import Trends
from mcrelay.commands.watched import Seen


def stats(moment, count, *, rate=1, lost=0):
    """So many rules, the n-th of which has carried n times *rate* datagrams a second since the time 0."""
    return {
        "time": float(moment),
        "rules": [
            {
                "name": f"r{i:05}",
                "rx_packets": i * rate * moment,
                "rx_bytes": 100 * i * rate * moment,
                "drops": {"source": lost * i, "echo": 0},
                "last_packet_time": float(moment) if i else None,
                "outputs": [
                    {
                        "to": f"239.10.0.{i % 250}:5004%out0",
                        "tx_packets": i * rate * moment,
                        "tx_bytes": 100 * i * rate * moment,
                        "tx_errors": {"nobufs": 0, "parked": 0},
                    }
                ],
            }
            for i in range(count)
        ],
        "links": [
            {"ifname": "in0", "filter": "exact", "ring_dropped_frames": 7, "frames": {"relayed": 5, "no_match": 3}}
        ],
    }


def answers(moment, count, **options):
    found = stats(moment, count, **options)
    rules = [
        {
            "name": each["name"],
            "description": "a camera" if i == 3 else "",
            "state": "error" if i == 1 else "active",
            "reason": "the kernel refuses the join" if i == 1 else None,
            "losing": False,
            "inputs": [
                {
                    "from": f"239.1.1.{i % 250}:5000%in0",
                    "iif": "in0",
                    "group": f"239.1.{i // 250}.{i % 250}",
                    "source": None,
                }
            ],
            "outputs": [{"to": output["to"], "state": "active", "reason": None} for output in each["outputs"]],
        }
        for i, each in enumerate(found["rules"])
    ]
    groups = [
        {"ifname": "in0", "group": f"239.1.{i // 250}.{i % 250}", "source": None, "version": 3, "reason": None,
         "state": "error" if i == 1 else "joined"}
        for i in range(count)
    ]  # fmt: skip
    links = [
        {"ifname": "in0", "operstate": "UP", "warnings": [],
         "querier": {"address": "192.0.2.9", "version": 3, "last_seen_time": moment - 12.0}},
    ]  # fmt: skip
    return {"stats": found, "rules": rules, "groups": groups, "links": links}


def seen_of(count, *, moments=(0, 1), **options):
    seen = Seen()
    for moment in moments:
        seen.take(answers(moment, count, **options))
    return seen


def text_of(lines):
    return ["".join(piece.text for piece in line) for line in lines]


def test_a_speed_is_what_came_since_the_last_answer():
    trends = Trends()
    for moment in (0, 2, 4):
        trends.take(stats(moment, 4, rate=50))
    assert trends.trends["r00003", ""].packet_rate == 150
    assert trends.trends["r00003", "239.10.0.3:5004%out0"].bit_rate == 150 * 800


def test_a_relay_that_began_anew_has_no_speed_yet_and_none_below_zero():
    trends = Trends()
    for moment in (100, 101):
        trends.take(stats(moment, 2, rate=50))
    trends.forget()
    trends.take(stats(3, 2, rate=50))
    assert trends.trends["r00001", ""].packet_rate == 0
    trends.take(stats(4, 2, rate=50))
    assert trends.trends["r00001", ""].packet_rate == 50


def test_the_last_minute_stands_at_the_right_and_what_is_older_is_gone():
    trends = Trends()
    for moment in range(31):
        trends.take(stats(moment, 2, rate=10))
    found = trends.minute(("r00001", ""), 12)
    assert found[:6] == [None] * 6
    assert [round(each) for each in found[6:]] == [10] * 6
    for moment in range(31, 200):
        trends.take(stats(moment, 2, rate=10))
    assert len(trends.times) == len(trends.trends["r00001", ""].rates) == 60


def test_after_one_look_nothing_is_known_of_the_minute():
    trends = Trends()
    trends.take(stats(5, 2, rate=10))
    assert trends.minute(("r00001", ""), 12) == [None] * 12


def test_a_look_that_comes_seldom_fills_all_of_its_time():
    trends = Trends()
    for moment in range(0, 40, 10):
        trends.take(stats(moment, 2, rate=10))
    assert [each is not None for each in trends.minute(("r00001", ""), 12)] == [False] * 6 + [True] * 6


def test_a_rule_that_came_later_has_its_minute_at_the_right_too():
    trends = Trends()
    for moment in range(30):
        trends.take(stats(moment, 1))
    for moment in range(30, 36):
        trends.take(stats(moment, 2, rate=10))
    found = trends.minute(("r00001", ""), 60)
    assert [each is not None for each in found] == [False] * 55 + [True] * 5


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (40, 10), (20, 4), (500, 100)])
@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_a_picture_has_as_many_lines_as_the_terminal_and_none_is_wider(width, height, count):
    lines = screen.draw(seen_of(count), View(), width, height)
    assert len(lines) == height
    assert all(len(each) <= width for each in text_of(lines))


def test_at_80_columns_the_figures_of_a_rule_stand_in_one_line():
    shown = text_of(screen.draw(seen_of(4, rate=500, lost=7), View(), 80, 24))
    line = next(each for each in shown if "r00003" in each)
    assert line.split()[:7] == [">r00003", "active", "v3", "1.5k", "1.2M", "21", "now"]
    assert any(each.startswith("in0 UP, querier 192.0.2.9 v3 12s") for each in shown)
    assert any("drops: source 21" in each for each in shown)
    assert "q quit" in shown[-1]


@pytest.mark.parametrize(("width", "shown"), [(80, " in 2.4Mbit/s  out 2.4Mbit/s"), (100, "out 3.0k/s 2.4Mbit/s")])
def test_the_first_line_ends_with_a_whole_figure(width, shown):
    seen = seen_of(4, rate=500)
    for name in list(seen.rules)[1:3]:
        seen.rules[name]["state"] = "pending and long"
    line = text_of(screen.draw(seen, View(), width, 24))[0]
    assert line.rstrip().endswith(shown), line


def test_a_refused_membership_is_said():
    view = View(chosen="r00001")
    shown = text_of(screen.draw(seen_of(4), view, 80, 24))
    assert any("r00001" in each and " no " in each and "error" in each for each in shown)
    assert any("the kernel refuses the join" in each for each in shown)


def test_only_the_rows_that_are_seen_are_made(monkeypatch):
    made = []
    row = screen._row
    monkeypatch.setattr(screen, "_row", lambda *arguments, **options: made.append(1) or row(*arguments, **options))
    screen.draw(seen_of(10_000), View(), 80, 24)
    assert 10 <= len(made) <= 24


def test_the_chosen_rule_is_always_in_sight():
    seen, view = seen_of(100), View(sort="name")
    for key in ["down"] * 60 + ["up"] * 30 + ["end", "home", "page down", "end"]:
        press(seen, view, key)
        assert any(each.startswith(f">{view.chosen}") for each in text_of(screen.draw(seen, view, 80, 24))), key
    assert view.chosen == "r00099"


def test_rules_are_sorted_and_filtered_as_the_keys_say():
    seen, view = seen_of(5, lost=1), View()
    names = lambda: [each["name"][-1] for each in order(seen, view)]  # noqa: E731
    assert names() == ["4", "3", "2", "1", "0"]
    for key, expected in (("n", "01234"), ("r", "43210"), ("l", "43210"), ("p", "43210"), ("a", "12340")):
        assert press(seen, view, key)
        assert "".join(names()) == expected, key
    for key in ("/", *"camera", "enter"):
        press(seen, view, key)
    assert names() == ["3"]
    press(seen, view, "escape")
    assert len(names()) == 5
    assert not press(seen, view, "q")


def test_while_the_filter_is_typed_letters_are_letters():
    seen, view = seen_of(3), View()
    for key in ("/", "q", "n", "backspace"):
        assert press(seen, view, key)
    assert (view.filter, view.sort) == ("q", "pkts")
    assert "filter: q_" in text_of(screen.draw(seen, view, 80, 24))[-1]


def test_a_name_that_would_move_the_cursor_is_shown_as_text():
    seen = seen_of(1)
    seen.links[0]["ifname"] = seen.stats["links"][0]["ifname"] = "in\033[2J"
    assert not any("\033" in each for each in text_of(screen.draw(seen, View(), 80, 24)))


def test_without_unicode_every_letter_is_ascii():
    shown = "\n".join(text_of(screen.draw(seen_of(3), View(), 80, 24, plain=True)))
    assert shown.isascii()


def test_trouble_is_said_in_the_first_line_and_what_was_known_stays():
    seen = seen_of(3)
    seen.lose("no relay is running")
    shown = text_of(screen.draw(seen, View(), 80, 24))
    assert shown[0] == "mcrelay top: no answer, trying again: no relay is running"
    assert any("r00002" in each for each in shown)


def test_numbers_have_a_unit_and_a_spark_line_goes_from_nothing_to_the_top():
    assert [scaled(each) for each in (0, 0.5, 7, 9.97, 999, 1000, 12345, 999_950, 8.4e6)] == [
        "0", "0.5", "7", "10", "999", "1.0k", "12k", "1.0M", "8.4M",
    ]  # fmt: skip
    assert sparkline([None, 0.0, 1.0, 50.0, 100.0], screen.SPARKS) == " ▁▂▅█"
    assert sparkline([0.0, 0.0], screen.SPARKS) == "▁▁"


def test_keys_have_names_and_unknown_sequences_are_none():
    assert named("q\033[A\033[6~\033[1;5C\r\x7f/") == ["q", "up", "page down", "enter", "backspace", "/"]
    assert named("\033") == ["escape"]


@pytest.mark.parametrize(
    ("took", "number", "seconds"),
    [(0.01, 5, 0.99), (0.5, 5, 2.0), (3.0, 5, PAUSE_SECONDS), (3.0, 1, 1.0), (3.0, 0, 1.0)],
)
def test_a_relay_that_takes_long_to_tell_is_asked_less_often_and_rates_are_there_soon(took, number, seconds):
    assert pause(took, number) == pytest.approx(seconds)


def test_the_memberships_of_a_range_are_told_by_their_number():
    seen = seen_of(2)
    seen.rules["r00001"]["inputs"] = [
        {"from": "239.9.0.0/29:5000%in0", "iif": "in0", "group": "239.9.0.0/29", "source": None}
    ]
    of_range = [
        {"ifname": "in0", "group": f"239.9.0.{i}", "source": None, "state": "joined", "version": 3, "reason": None}
        for i in range(8)
    ]
    seen.groups = {(each["ifname"], each["group"], each["source"]): each for each in of_range}
    view = View(chosen="r00001")
    shown = "\n".join(text_of(screen.draw(seen, view, 100, 30)))
    assert "239.9.0.0/29:5000%in0 (8 groups joined)" in shown
    seen.groups["in0", "239.9.0.3", None] |= {"state": "error", "reason": "no sockets"}
    shown = "\n".join(text_of(screen.draw(seen, view, 100, 30)))
    assert "(7 groups joined, 1 groups error)" in shown
    assert shown.count("no sockets") == 1

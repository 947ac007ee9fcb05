"""The small bench measures what it says."""

from scenarios import bench_small


def test_both_ways_count_every_request_with_the_same_bounds() -> None:
    for way in (bench_small.ours(), bench_small.without_features(), bench_small.theirs()):
        way()
    lines = list(bench_small.requests(times=1))
    assert [line.rsplit(maxsplit=2)[0].strip() for line in lines[1:]] == [
        "prometheus_client",
        "controller.instrument, without features",
        "controller.instrument",
    ]
    assert float(lines[1].split()[-1]) == 1


def test_a_command_s_start_is_measured_beside_an_empty_one_s() -> None:
    lines = list(bench_small.starts(times=1))
    figures = {line[:20].strip(): [float(one) for one in line[20:].split()] for line in lines[1:]}
    assert list(figures) == ["python -c pass", "serin --help", "serin list"]
    assert figures["python -c pass"][2:] == [0, 1]
    assert all(figures[name][1] > 0 for name in ("serin --help", "serin list"))

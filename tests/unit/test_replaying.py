"""A replay at a desk: in parts, gone on with, stopped; and the command that does it."""

import gzip
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpu_shadow import cli_replay, progress, replaying
from gpu_shadow.cli import shadow
from gpu_shadow.model import Answers, Batch
from gpu_shadow.progress import Progress, Unusable
from gpu_shadow.replaying import Job, prepared

FEATURES, CLASSES, REQUESTS, BLOCK = 3, 4, 230, 32
CHANCE = torch.Generator().manual_seed(3)
WEIGHT = torch.randn(CLASSES, FEATURES, generator=CHANCE)
ROWS = torch.randn(REQUESTS, FEATURES, generator=CHANCE)


def model(path: Path, weight: Tensor) -> str:
    given = {"0.weight": weight.contiguous(), "0.bias": torch.zeros(len(weight))}
    save_file(given, path, metadata={"architecture": "mlp", "activation": "relu"})
    return str(path)


def request(number: int, row: Tensor) -> str:
    given = {"name": "x", "shape": [1, len(row)], "datatype": "FP32", "data": row.tolist()}
    return json.dumps({"id": f"r{number}", "inputs": [given]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("desk")
    model(found / "v7", WEIGHT)
    model(found / "v8", WEIGHT + 0.05 * torch.randn(WEIGHT.shape, generator=CHANCE))
    model(found / "permuted", WEIGHT.flip(0))
    lines = [request(number, row) for number, row in enumerate(ROWS)]
    lines += ["{", request(-1, torch.ones(FEATURES + 1))]
    (found / "day.jsonl").write_text("\n".join(lines))
    return found


def job(folder: Path, *, everything: bool = True, part: int = 1, parts: int = 1, **how: Any) -> Job:
    asked: dict[str, Any] = {
        "stable": str(folder / "v7"),
        "canary": str(folder / "v8"),
        "models": Path("/"),
        "max_flips": 0.005,
        "seed": 0,
        "key": None,
        "memory": 64,
        "device": "cpu",
        "threads": 1,
        "state": None,
        "block": BLOCK,
    }
    return prepared([folder / "day.jsonl"], everything=everything, part=part, parts=parts, **asked | how)


def end(asked: Job) -> Progress:
    *_, last = [asked.begun, *asked.replayed()]
    return last


def text(found: Progress) -> str:
    written = [replaying.said(found).to_json(), replaying.as_json(found), found.comparison.to_json()]
    return "\n".join([*map(json.dumps, written), *replaying.lines(found)])


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    return text(end(job(folder)))


@pytest.mark.parametrize("parts", [1, 2, 5, 7, 20])
def test_parts_in_any_order_are_to_the_byte_what_one_replay_of_all_is(
    folder: Path, whole: str, parts: int
) -> None:
    done = {f"{part}": end(job(folder, part=part, parts=parts)) for part in range(1, parts + 1)}
    backwards = dict(reversed(done.items()))
    assert text(progress.whole(done)) == text(progress.whole(backwards)) == whole


def test_blocks_are_cut_alike_whatever_a_process_did_before(folder: Path, tmp_path: Path) -> None:
    """Of blocks that are larger than a first look into the unknown."""
    rows = torch.randn(900, FEATURES, generator=torch.Generator().manual_seed(5))
    (tmp_path / "day.jsonl").write_text("\n".join(request(n, row) for n, row in enumerate(rows)))
    for name in ("v7", "v8"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    parts = {str(part): end(job(tmp_path, part=part, parts=3, block=300)) for part in (1, 2, 3)}
    assert [one.comparison.requests for one in parts.values()] == [300, 300, 300]
    assert text(progress.whole(parts)) == text(end(job(tmp_path, block=300)))


def test_as_many_requests_are_replayed_at_once_as_answers_are_small_enough_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job(folder, block=0).replay.look == 2_048
    monkeypatch.setattr(replaying, "HELD", 40 * CLASSES)
    assert job(folder, block=0).replay.look == 40


def test_a_replay_killed_at_every_look_goes_on_where_it_was(folder: Path, whole: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    blocks = job(folder).begun.blocks
    assert blocks == 8
    for _ in range(blocks):
        gone_on = job(folder, state=state)
        reached = next(gone_on.replayed())
        assert reached.done == gone_on.begun.done + 1
        progress.write(state, reached)  # and it is killed
    assert list(job(folder, state=state).replayed()) == []
    assert text(progress.read(state)) == whole


def test_a_replay_that_stops_when_decided_stops_at_the_same_block_however_often_it_was_killed(
    folder: Path, tmp_path: Path
) -> None:
    state, how = tmp_path / "state", {"canary": str(folder / "permuted"), "everything": False, "block": 4}
    uninterrupted = end(job(folder, **how))
    assert 1 < uninterrupted.done < uninterrupted.blocks
    for _ in range(uninterrupted.done + 3):
        for reached in job(folder, state=state, **how).replayed():
            progress.write(state, reached)
            break
    assert text(progress.read(state)) == text(uninterrupted)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"seed": 1}, "its seed is not"),
        ({"max_flips": 0.01}, "its margins are not"),
        ({"canary": "permuted"}, "its canary model is not"),
        ({"part": 1, "parts": 2}, "its part 1/1 is not"),
        ({"block": 8, "stable": "permuted"}, "its block size and stable model are not"),
    ],
)
def test_a_state_of_another_question_is_refused(
    folder: Path, tmp_path: Path, how: dict[str, Any], says: str
) -> None:
    progress.write(tmp_path / "state", job(folder).begun)
    files = {name: str(folder / how[name]) for name in ("stable", "canary") if name in how}
    with pytest.raises(Unusable, match=says):
        job(folder, state=tmp_path / "state", **how | files)


def test_what_is_left_out_is_counted_and_said(folder: Path) -> None:
    found = end(job(folder))
    assert (found.comparison.requests, sum(found.left_out.values()), found.came) == (230, 2, 232)
    said = list(replaying.lines(found))
    assert "Replayed 232 of 232 requests." in said
    assert "Left out: 1 without one tensor of 3 features a row." in said
    unread = "Left out: 1 that are no requests of the protocol: day.jsonl:231: no request of the protocol"
    assert [one for one in said if one.startswith(unread)]


def killing(asked: Job, sign: int, *, at: int) -> Job:
    """The same, but the signal arrives while the stable model answers for the `at`th time."""
    calls = []
    answer = asked.replay.stable.answer

    def interrupted(batch: Batch) -> Tensor | Answers:
        calls.append(len(batch))
        if len(calls) == at:
            os.kill(os.getpid(), sign)
        return answer(batch)

    asked.replay.stable = replace(asked.replay.stable, answer=interrupted)
    return asked


def test_one_that_stopped_when_it_was_decided_goes_on_to_the_bytes_of_the_whole(
    folder: Path, tmp_path: Path
) -> None:
    with (folder / "day.jsonl").open() as file, (tmp_path / "many.jsonl").open("w") as many:
        lines = [line for line in file if '"id"' in line]
        many.writelines(line.replace('"id": "', f'"id": "{k}-') for k in range(4) for line in lines)

    def asked(**how: Any) -> Job:
        given: dict[str, Any] = {"stable": str(folder / "v7"), "canary": str(folder / "permuted")}
        given |= {"models": Path("/"), "max_flips": 0.005, "seed": 0, "key": None, "device": "cpu"}
        given |= {"memory": 64, "threads": 1, "part": 1, "parts": 1, "state": None, "block": 400}
        return prepared([tmp_path / "many.jsonl"], **given | how)

    first = end(asked(everything=False))
    assert (first.done, first.complete) == (1, False)
    assert first.came == 400
    progress.write(tmp_path / "state", first)
    assert text(end(asked(everything=True, state=tmp_path / "state"))) == text(end(asked(everything=True)))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_that_was_compared_before(
    folder: Path, whole: str, tmp_path: Path, sign: int
) -> None:
    state, before = tmp_path / "state", signal.getsignal(sign)
    found, ended_by = cli_replay._gone_through(killing(job(folder), sign, at=20), state)
    assert ended_by == sign
    assert 0 < found.done < found.blocks
    assert found.came == BLOCK * found.done
    assert progress.read(state) == found
    assert text(end(job(folder, state=state))) == whole
    assert signal.getsignal(sign) is before


# -- the command -----------------------------------------------------------------------------------


def serin(*arguments: object, environ: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(shadow, [str(one) for one in arguments], env=environ)


def replay(folder: Path, *arguments: object, canary: str = "v8", **more: Any) -> Result:
    models = ("--stable", folder / "v7", "--canary", folder / canary)
    return serin("replay", folder / "day.jsonl", *models, *arguments, **more)


def test_the_same_model_is_not_failed_and_a_permuted_one_is(folder: Path) -> None:
    same = replay(folder, canary="v7")
    assert same.exit_code == 0
    assert same.stdout.startswith("Inconclusive: Between -")
    assert replay(folder, "--require-pass", canary="v7").exit_code == 3
    other = replay(folder, canary="permuted")
    assert (other.exit_code, other.stdout[:5]) == (3, "Fail:")


def test_models_that_do_not_fit_together_take_turns_and_answer_the_same(folder: Path, whole: str) -> None:
    size = (folder / "v7").stat().st_size + (folder / "v8").stat().st_size
    found = replaying.opened(
        *(str(folder / name) for name in ("v7", "v8")),
        models=Path("/"),
        device=torch.device("cpu"),
        memory=size - 1,
    )
    asked = job(folder)
    asked.replay.stable, asked.replay.canary = found
    assert text(end(asked)) == whole


def test_a_server_that_is_not_there_may_be_asked_again_later(folder: Path) -> None:
    away = f"http://127.0.0.1:9/v2/models/v8@sha256:{'0' * 64}"
    said = serin("replay", folder / "day.jsonl", "--stable", folder / "v7", "--canary", away)
    assert said.exit_code == 1
    assert "cannot be reached" in said.stderr


def test_an_id_of_whoever_it_may_be_moves_no_cursor(folder: Path) -> None:
    lines = (folder / "day.jsonl").read_bytes().splitlines()[:20]
    asked = [json.loads(line) | {"id": f"\x1b[2J\x9b1m{at}"} for at, line in enumerate(lines)]
    (folder / "odd.jsonl").write_text("\n".join(map(json.dumps, asked)))
    models = ("--stable", folder / "v7", "--canary", folder / "permuted")
    found = serin("replay", folder / "odd.jsonl", *models)
    assert "Most different: \\u001b[2J\\u009b1m" in found.stdout
    assert not {"\x1b", "\x9b"} & set(found.stdout)


def test_a_model_may_be_named_by_a_reference_below_a_folder(folder: Path) -> None:
    digest = sha256((folder / "v7").read_bytes()).hexdigest()
    named = f"file://{folder / 'v7'}@sha256:{digest}"
    given = ("replay", folder / "day.jsonl", "--stable", named, "--canary", folder / "v7")
    assert serin(*given, "--models", folder).exit_code == 0
    (folder / "elsewhere").mkdir(exist_ok=True)
    refused = serin(*given, "--models", folder / "elsewhere")
    assert refused.exit_code == 2
    assert "is not below" in refused.stderr


def test_the_finding_is_that_of_two_files_and_says_what_was_replayed(folder: Path, tmp_path: Path) -> None:
    assert replay(folder, "--json", tmp_path / "out.json", canary="permuted").exit_code == 3
    said = json.loads((tmp_path / "out.json").read_text())
    assert (said["schema"], said["verdict"]) == ("serin.dev/shadow-finding/v1", "Fail")
    assert said["replay"] == {
        "requests": 232,
        "replayed": 232,
        "leftOut": {"that are no requests of the protocol": 1, "without one tensor of 3 features a row": 1},
        "redacted": [],
        "seed": 0,
        "complete": True,
    }
    stable, canary, requests = said["sources"]
    assert stable["sha256"] == sha256((folder / "v7").read_bytes()).hexdigest()
    assert canary["name"] == str(folder / "permuted")
    assert requests["role"] == "requests"


def test_parts_by_number_and_by_an_indexed_job_s_index_merge_into_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    assert replay(folder, "--all", "--json", tmp_path / "whole.json").exit_code == 3
    one = replay(folder, "--part", "1/2", "--partial", tmp_path / "1")
    two = replay(folder, "--parts", 2, "--state", tmp_path / "2", environ={"JOB_COMPLETION_INDEX": "1"})
    assert (one.exit_code, two.exit_code) == (0, 0)
    assert one.stdout.startswith("Part 1 of 2: 230 requests compared, 1 of 1 blocks")
    assert two.stdout.startswith("Part 2 of 2: 0 requests compared, 0 of 0 blocks")
    merged = serin("merge", tmp_path / "2", tmp_path / "1", "--json", tmp_path / "merged.json")
    assert merged.exit_code == 3
    assert merged.stdout == replay(folder, "--all").stdout
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert replay(folder, "--part", "2/2", "--state", tmp_path / "2").exit_code == 0  # it was done


def test_the_only_part_of_one_is_a_part_and_merges(folder: Path, tmp_path: Path) -> None:
    whole = replay(folder, "--all", "--json", tmp_path / "whole.json")
    environ = {"JOB_COMPLETION_INDEX": "0"}
    part = replay(folder, "--parts", 1, "--partial", tmp_path / "1", environ=environ)
    assert (part.exit_code, part.stdout[:38]) == (0, "Part 1 of 1: 230 requests compared, 1 ")
    merged = serin("merge", tmp_path / "1", "--json", tmp_path / "merged.json")
    assert (merged.exit_code, merged.stdout) == (3, whole.stdout)
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def refused(result: Result, *says: str) -> None:
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    for each in says:
        assert each in result.stderr, result.stderr


def test_what_makes_no_sense_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    refused(replay(folder, "--part", "1/2"), "a part is no finding", "--partial")
    refused(
        replay(folder, "--part", "1/2", "--partial", tmp_path / "1", "--json", "-"), "a part is no finding"
    )
    for part in ("0/2", "3/2", "2", "a/b", "1/0"):
        refused(replay(folder, "--part", part, "--state", tmp_path / "1"), f"--part {part}: expected I/N")
    environ = {"JOB_COMPLETION_INDEX": ""}
    refused(replay(folder, "--parts", 2, "--state", tmp_path / "1", environ=environ), "give --part I/N")
    refused(replay(folder, "--parts", 2, "--part", "1/2", "--state", tmp_path / "1"), "give one of them")
    refused(replay(folder, "--json", tmp_path), "is a folder")
    refused(replay(folder, "--state", tmp_path / "no" / "where"), "there is no folder")
    refused(replay(folder, "--device", "abacus"), "--device abacus", "expected auto, cpu")
    refused(replay(folder, canary="day.jsonl"), "is no safetensors file")
    refused(replay(folder, canary="nowhere"), "cannot be read")
    refused(serin("merge", folder / "v7", folder / "v7"), "is named twice")
    refused(replay(folder, "--state", folder / "day.jsonl"), "is no part of a comparison")
    refused(serin("merge", folder / "day.jsonl"), "is no part of a comparison")
    progress.write(tmp_path / "worker", replace(job(folder).begun, question={"run": "lab/run-1"}, blocks=0))
    refused(serin("merge", tmp_path / "worker"), "worker: is no part of a serin shadow replay")
    refused(serin("merge", tmp_path / "nowhere"), "nowhere: cannot be read (No such file")
    assert (folder / "day.jsonl").read_text().startswith('{"id": "r0"')


def test_what_the_canary_takes_is_told_where_stable_takes_something_else(folder: Path) -> None:
    tensors = load_file(folder / "v7")
    save_file(tensors, folder / "named", {"architecture": "mlp", "activation": "relu", "input": "pixels"})
    found = replay(folder, canary="named")
    assert found.exit_code == 3
    assert found.stderr.startswith("The canary takes ")
    assert "pixels" in found.stderr
    assert replay(folder, canary="v7").stderr == ""


def test_ctrl_c_before_anything_was_compared_is_told_and_ends_with_130() -> None:
    with pytest.raises(SystemExit) as ended, cli_replay._refused("serin shadow replay"):
        os.kill(os.getpid(), signal.SIGINT)
    assert ended.value.code == 130


def test_requests_that_are_none_at_all_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text("{}\n" + request(1, torch.ones(9)))
    models = ("--stable", folder / "v7", "--canary", folder / "v8")
    said = serin("replay", tmp_path / "odd.jsonl", *models)
    refused(said, "none of 2 requests could be compared", "Left out: 1 without one tensor", "odd.jsonl:1:")


@pytest.mark.parametrize(
    "body", [b"a,b\n1,2\n", b'{\n  "a": 1\n}\n', gzip.compress(b'{"inputs": []}', mtime=0)]
)
def test_a_file_of_another_kind_is_told_with_what_should_have_been_given(
    folder: Path, tmp_path: Path, body: bytes
) -> None:
    (tmp_path / "day.csv").write_bytes(body)
    said = serin("replay", tmp_path / "day.csv", "--stable", folder / "v7", "--canary", folder / "v8")
    refused(said, "lines in ", "day.csv is a request; give segments", ".jsonl files", '{"inputs": [{"name"')


def test_help_teaches() -> None:
    said = serin("replay", "--help").stdout
    for word in (
        "REQUESTS",
        '"inputs"',
        "safetensors",
        "Ctrl-C",
        "Exit codes",
        "Examples:",
        "merge",
        "--state",
    ):
        assert word in said
    assert "--part I/N" in serin("merge", "--help").stdout


def test_without_torch_it_is_said_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from controller.cli import main\n"
        "main(['shadow', 'replay', 'a', '--stable', 'b', '--canary', 'c'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: serin shadow replay needs torch, which is not installed: pip install 'serin[gpu]'\n"
    )

"""Workers that take several machines: where their processes run, how these find each other, who is reached."""

import json
import re
import shlex
import subprocess

import pytest

from tandem.api.problems import Refused
from tandem.generator.placement import Pool, place
from tests.unit.generator.test_artifacts import SHELLCHECK, artifacts, inputs
from tests.unit.yaml_text import read_all


def test_s0_33_a_worker_of_several_machines_takes_the_first_ones_with_room():
    nodes = place((Pool("prefill", 2, 4), Pool("decode", 2, 6, machines=2), Pool("agg", 2, 2)), gpus_per_node=8)

    placed = [[(part.name, part.rank, part.gpus[0], len(part.gpus)) for part in node.places] for node in nodes]
    assert placed == [
        [("prefill-0", 0, 0, 4), ("prefill-1", 0, 4, 4)],
        [("decode-0", 0, 0, 6), ("agg-0", 0, 6, 2)],
        [("decode-0", 1, 0, 6), ("agg-1", 0, 6, 2)],
        [("decode-1", 0, 0, 6)],
        [("decode-1", 1, 0, 6)],
    ]
    assert [dict(node.counts()) for node in nodes][1:3] == [{"decode": 1, "agg": 1}, {"agg": 1}]


SPANNING = {"decode": {"tensor_parallel_size": 16}, "prefill": {"tensor_parallel_size": 4}}


@pytest.fixture
def spanning(minimal):
    """Two prefill workers on the first machine, and a decode worker on the two others."""
    return inputs(minimal, "disagg", Workers=SPANNING, WorkerConfig={"prefill_workers": 2})


def commands(script: str) -> dict[str, list[str]]:
    """The words that start each process, by the comment before it."""
    blocks = script.replace("\\\n", " ").split("\n\n")
    return {block.splitlines()[0].removeprefix("# "): shlex.split(block, comments=True) for block in blocks}


def flag(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_s0_33_a_worker_of_two_machines_is_a_process_on_each(spanning, library, backend):
    found = artifacts(spanning, backend, library)

    assert sorted(name for name in found if name.startswith("run_")) == ["run_0.sh", "run_1.sh", "run_2.sh"]
    leader = commands(found["run_1.sh"])["decode-0, part 0 of 2"]
    other = commands(found["run_2.sh"])["decode-0, part 1 of 2"]
    assert [flag(words, "--node-rank") for words in (leader, other)] == ["0", "1"]
    assert {flag(words, "--nnodes") for words in (leader, other)} == {"2"}
    assert all("CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7" in words for words in (leader, other))
    differing = {"--node-rank", "0", "1", "--headless"}
    assert [word for word in leader if word not in differing] == [word for word in other if word not in differing]


def test_s0_33_the_parts_of_a_vllm_worker_meet_at_the_first_machine_and_only_that_one_serves(spanning, library):
    found = artifacts(spanning, "vllm", library)

    leader = commands(found["run_1.sh"])["decode-0, part 0 of 2"]
    other = commands(found["run_2.sh"])["decode-0, part 1 of 2"]
    for words in (leader, other):
        assert (flag(words, "--master-addr"), flag(words, "--master-port")) == ("$NODE_1_IP", "29501")
    assert ("--headless" in leader, "--headless" in other) == (False, True)


def test_s0_33_the_parts_of_an_sglang_worker_meet_at_the_first_machine(spanning, library):
    found = artifacts(spanning, "sglang", library)

    for number in (0, 1):
        words = commands(found[f"run_{number + 1}.sh"])[f"decode-0, part {number} of 2"]
        assert flag(words, "--dist-init-addr") == "$NODE_1_IP:20102"


def test_s0_33_workers_that_begin_on_one_machine_meet_at_different_ports(minimal, library):
    raw = inputs(minimal, "agg", Workers={"agg": {"tensor_parallel_size": 9}}, WorkerConfig={"agg_workers": 2})

    found = artifacts(raw, "vllm", library)

    for number in range(3):
        started = commands(found[f"run_{number}.sh"])
        both = [started[f"agg-{index}, part {number} of 3"] for index in range(2)]
        assert [flag(words, "--master-addr") for words in both] == ["$NODE_0_IP"] * 2
        assert [flag(words, "--master-port") for words in both] == ["29501", "29533"]
        assert [flag(words, "--port") for words in both] == ["8001", "8002"]


def test_s0_33_a_worker_that_fits_is_told_nothing_of_machines(minimal, library):
    raw = inputs(minimal, "agg", Workers={"agg": {"tensor_parallel_size": 8}})

    assert "--nnodes" not in artifacts(raw, "vllm", library)["run_0.sh"]
    smaller = artifacts({**raw, "NodeConfig": {"num_gpus_per_node": 4}}, "vllm", library)
    assert [flag(words, "--nnodes") for words in commands(smaller["run_1.sh"]).values() if "--nnodes" in words] == ["2"]


def test_s0_33_each_script_asks_for_the_addresses_that_it_needs(spanning, library):
    found = artifacts(spanning, "vllm", library)

    asked = [re.findall(r"\{NODE_(\d)_IP:\?", found[f"run_{number}.sh"]) for number in range(3)]
    assert asked == [["0", "1", "2"], ["1"], ["1", "2"]]


def test_s0_33_the_frontend_reaches_a_worker_of_several_machines_at_its_first(spanning, library):
    script = artifacts(spanning, "vllm", library)["run_0.sh"]

    endpoints = json.loads(script.partition("<<END\n")[2].partition("END")[0])["endpoints"]
    assert [(item["name"], item["address"]) for item in endpoints] == [
        ("prefill-0", "$NODE_0_IP"),
        ("prefill-1", "$NODE_0_IP"),
        ("decode-0", "$NODE_1_IP"),
    ]


def test_s0_33_what_the_pods_of_such_a_worker_are_told_is_what_its_processes_are_told(spanning, library):
    found = artifacts(spanning, "vllm", library)

    (sets,) = (item for item in read_all(found["k8s_deploy.yaml"]) if item["kind"] == "LeaderWorkerSet")
    for number, part in enumerate(("leaderTemplate", "workerTemplate")):
        (container,) = sets["spec"]["leaderWorkerTemplate"][part]["spec"]["containers"]
        words = commands(found[f"run_{number + 1}.sh"])[f"decode-0, part {number} of 2"]
        flags = [[item for item in line if item.startswith("--")] for line in (container["args"], words)]
        assert flags[0] == flags[1]


def test_s0_33_a_backend_that_cannot_span_machines_is_refused_with_the_reason(spanning, library):
    with pytest.raises(Refused, match=r"Workers\.decode\.tensor_parallel_size.*16 GPUs.*MPI launcher"):
        artifacts(spanning, "trtllm", library)


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed (extra dev)")
@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_s0_33_their_scripts_pass_shellcheck(spanning, library, backend, tmp_path):
    found = artifacts(spanning, backend, library)
    for number in range(3):
        path = tmp_path / f"run_{number}.sh"
        path.write_text(found[path.name])
        done = subprocess.run([SHELLCHECK, str(path)], capture_output=True, text=True, check=False)
        assert done.stdout == ""

"""Pushing to a stub of the Hub (hub_stub.py) with the real client, in processes of their own: what is sent, and when.

The stub shows the client's path and the set of files; it is not the Hub.
"""

import json
import pickle
import signal
import sys

import pytest
import warm
from conftest import ROOT
from finished_run import STAY_AT_HOME, make_run
from hub_stub import HubStub, hub  # noqa: F401 (hub is a fixture)

from avb.arguments import AvbTrainingArguments
from avb.cards import command
from avb.cards.card import write_card
from avb.cards.hub_folder import REPO_PLACEHOLDER, hub_files
from avb.cards.push import files_to_push, looks_like_pickle
from avb.errors import AvbError

REPO = "org/avb-two"
# One process for many commands: each line of stdin is [argv, token]; a line of output [exit code, stdout, stderr] each.
MANY = """
import contextlib, io, json, os, sys
from avb.cards import command

results = []
for argv, token in json.load(sys.stdin):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.main(argv)
    results.append([code, out.getvalue(), err.getvalue()])
json.dump(results, sys.stdout)
"""


@pytest.fixture
def folder(tmp_path):
    run = make_run(tmp_path / "avb-two")
    write_card(run)
    return run


def push_command(folder, *more):
    return [sys.executable, "-m", "avb.cards", "push", str(folder), REPO, *more]


def run(command, hub, tmp_path, **kwargs):  # noqa: F811
    environment = hub.environment(tmp_path / "hf_home") | {"OMP_NUM_THREADS": "1"}
    return warm.run(command, env=environment, **kwargs)


def expected_files(folder) -> dict[str, bytes]:
    files = {name: (folder / name).read_bytes() for name in hub_files(folder)}
    files["README.md"] = files["README.md"].replace(REPO_PLACEHOLDER.encode(), REPO.encode())
    return files


# ---- what is uploaded -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_push_uploads_the_announced_files_once_and_privately(folder, hub, tmp_path):  # noqa: F811
    done = run(push_command(folder, "--yes"), hub, tmp_path)
    assert done.returncode == 0, done.stderr
    repo = hub.repos[REPO]
    assert repo.private and repo.files == expected_files(folder)
    assert {"README.md", "metrics.json", "config.json", "model.safetensors", "modeling_avb.py"} < set(repo.files)
    assert [paths for _, paths in repo.commits] == [sorted(repo.files)]  # one commit
    announced = {line.split()[-1] for line in done.stdout.splitlines() if " bytes " in line}
    assert announced == set(repo.files)
    assert REPO in repo.files["README.md"].decode() and REPO_PLACEHOLDER in (folder / "README.md").read_text()
    assert hub.requests.index(("POST", "/api/validate-yaml")) < hub.requests.index(
        ("PUT", hub.asked("PUT", "/lfs/")[0])
    )


@pytest.mark.slow
def test_interrupted_and_repeated_push_ends_complete(folder, hub, tmp_path):  # noqa: F811
    stall = hub.stall("PUT", "/lfs/", after_bytes=(folder / "model.safetensors").stat().st_size // 2)
    environment = hub.environment(tmp_path / "hf_home")
    process = warm.start(push_command(folder, "--yes"), env=environment)
    try:
        assert stall.reached.wait(200)
    finally:
        process.send_signal(signal.SIGKILL)  # halfway through the weights
        process.wait()
    assert hub.repos[REPO].files == {} and hub.blobs == {}

    hub.fail("POST", "/commit/")  # the weights arrive, then the connection breaks
    done = run(push_command(folder, "--yes"), hub, tmp_path)
    assert done.returncode == 1 and "repeat the command to continue" in done.stderr
    assert hub.repos[REPO].files == {} and len(hub.blobs) == 1

    done = run(push_command(folder, "--yes"), hub, tmp_path)
    assert done.returncode == 0 and hub.repos[REPO].files == expected_files(folder)
    assert len(hub.asked("PUT", "/lfs/")) == 2  # the one that was killed, the one that arrived: the third sent nothing

    # Pushed again, nothing changes; a dry run asks nothing; and a model is public only where that is asked.
    jobs = [
        (["push", str(folder), REPO, "--yes"], "hf_stub_token"),
        (["push", str(folder), "org/dry", "--dry_run"], None),
        (["push", str(folder), "org/open", "--public", "--yes"], "hf_stub_token"),
    ]
    done = run([sys.executable, "-c", MANY], hub, tmp_path, input=json.dumps(jobs))
    assert done.returncode == 0, done.stderr
    (code, _, err), (dry_code, dry_out, _), (open_code, open_out, open_err) = json.loads(done.stdout)
    assert code == 0 and len(hub.repos[REPO].commits) == 1, err
    assert dry_code == 0 and "model.safetensors" in dry_out and "nothing was uploaded (--dry_run)" in dry_out
    assert open_code == 0 and "org/open (public) gets" in open_out, open_err
    assert list(hub.repos) == [REPO, "org/open"] and not hub.repos["org/open"].private  # the dry run made none
    assert len(hub.asked("PUT", "/lfs/")) == 2  # these weights are on the Hub


@pytest.mark.slow
def test_pushed_by_a_second_try_it_loads_back_where_this_project_is_unknown(folder, hub, tmp_path):  # noqa: F811
    hub.fail("PUT", "/lfs/", after_bytes=1000)  # a dropped connection is tried again
    assert run(push_command(folder, "--yes"), hub, tmp_path).returncode == 0
    assert hub.repos[REPO].files == expected_files(folder) and len(hub.asked("PUT", "/lfs/")) == 2
    script = (
        "import sys\n"
        "sys.path = [path for path in sys.path if path not in ('', sys.argv[1])]\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]\n"
        "from transformers import AutoModelForAudioClassification\n"
        f"model = AutoModelForAudioClassification.from_pretrained('{REPO}', trust_remote_code=True)\n"
        "assert type(model).__module__.startswith('transformers_modules.'), type(model).__module__\n"
        "print(list(model.config.id2label.values()), sum(p.double().sum().item() for p in model.parameters()))\n"
    )
    environment = hub.environment(tmp_path / "fresh")
    environment.pop("PYTHONPATH", None)
    done = warm.run([sys.executable, "-c", script, ROOT], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    total = sum(tensor.double().sum().item() for tensor in load_file(folder / "model.safetensors").values())
    labels, number = done.stdout.strip().rsplit(" ", 1)
    assert labels == "['Valence', 'Arousal']" and float(number) == pytest.approx(total, abs=1e-6)


# ---- when it cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_goes_wrong_is_one_clear_line(folder, hub, tmp_path):  # noqa: F811
    token, refused = "hf_stub_token", tmp_path / "refused"
    make_run(refused)
    (refused / "README.md").write_text("---\nlicense: nonsense\n---\n")
    hub.make("org/is-public", private=False)
    hub.fail("POST", "org/lfs-403.git", status=403)
    hub.fail("POST", "/api/repos/create", status=404)  # the first to come this far is org/missing
    cases = {
        "no token": ([str(folder), REPO, "--yes"], None, "no Hub token: run `hf auth login`, or set HF_TOKEN"),
        "bad token": ([str(folder), REPO, "--yes"], "hf_wrong", "does not accept the token"),
        "404": ([str(folder), "org/missing", "--yes"], token, "no such repository or organisation: correct ORG/NAME"),
        "403": ([str(folder), "others/x", "--yes"], token, "the token has no write access to others/x"),
        "403 of the upload": (
            [str(folder), "org/lfs-403", "--yes"],
            token,
            "the token has no write access to org/lfs-403",
        ),
        "no name": ([str(folder), "a/b/c", "--yes"], token, "'a/b/c' is not a repository name: give ORG/NAME"),
        "public": ([str(folder), "org/is-public", "--yes"], token, "org/is-public is public: push with --public"),
        "refused card": ([str(refused), REPO, "--yes"], token, "the Hub rejects its metadata: license 'nonsense'"),
        "not asked": ([str(folder), REPO], token, "nothing was uploaded: answer y, or add --yes"),
        "not finished": ([str(tmp_path), REPO, "--yes"], token, "no config.json"),
    }
    jobs = [(["push", *argv], used) for argv, used, _ in cases.values()]
    done = run([sys.executable, "-c", MANY], hub, tmp_path, input=json.dumps(jobs))
    assert done.returncode == 0, done.stderr
    # The many commands end with their input: the one that asks reads the end of it.
    for (name, (_, _, words)), (code, _, err) in zip(cases.items(), json.loads(done.stdout), strict=True):
        assert code == 1 and words in err and err.count("\n") == 1, (name, err)
        assert err.startswith("avb.cards: error: "), name
    assert not any(repo.files for repo in hub.repos.values())


def test_offline_is_one_clear_line(folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert command.main(["push", str(folder), REPO, "--yes"]) == 1  # conftest.py has the client offline
    assert "unset HF_HUB_OFFLINE" in capsys.readouterr().err


def test_a_folder_without_a_card_is_refused(folder):
    (folder / "README.md").unlink()
    with pytest.raises(AvbError, match="python -m avb.cards write"):
        files_to_push(folder)


# ---- the list of files ----------------------------------------------------------------------------------------------


def test_examples_of_the_card_go_along_and_nothing_else(folder, tone, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "laugh.wav", tone, 16_000)
    soundfile.write(folder / "private.wav", tone, 16_000)
    write_card(folder, examples=[tmp_path / "laugh.wav"])
    files = files_to_push(folder)
    assert set(files) == {*hub_files(folder), "examples/laugh.wav"} and len(files) == len(set(files))
    assert not set(files) & set(STAY_AT_HOME)


@pytest.mark.parametrize("src", ["../outside.wav", "examples/gone.wav"])
def test_an_example_that_is_not_in_the_folder_is_refused(folder, src):
    (folder.parent / "outside.wav").write_bytes(b"RIFF")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("---\n", f"---\nwidget:\n- src: {src}\n", 1))
    with pytest.raises(AvbError, match="it is not in this folder"):
        files_to_push(folder)


@pytest.mark.parametrize("metadata", ["tags: 7", "widget: [7]", "widget: [{output: []}]", "- a list", "a: b: c"])
def test_metadata_that_no_one_can_read_is_refused(folder, metadata):
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n# a card")
    with pytest.raises(AvbError, match="README.md: its metadata cannot be read"):
        files_to_push(folder)


def test_pickles_are_refused_whatever_their_name(folder, tmp_path):
    import torch

    torch.save({"weight": torch.zeros(3)}, tmp_path / "zip.txt")
    (tmp_path / "plain.txt").write_bytes(pickle.dumps([1, 2, 3]))
    (tmp_path / "weights.bin").write_bytes(b"text")
    assert all(looks_like_pickle(tmp_path / name) for name in ("zip.txt", "plain.txt", "weights.bin"))
    assert not any(looks_like_pickle(folder / name) for name in hub_files(folder))
    (folder / "model.safetensors").write_bytes((tmp_path / "zip.txt").read_bytes())
    with pytest.raises(AvbError, match="model.safetensors looks like a pickle"):
        files_to_push(folder)


# ---- from training --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_ends_with_the_model_on_the_hub_and_no_checkpoint(hub, sample, tmp_path):  # noqa: F811
    output_dir = tmp_path / "runs" / "high"
    command = [sys.executable, "train_avb.py", str(ROOT / "recipes" / "sample.yaml"), "--data_dir", str(sample)]
    command += ["--output_dir", str(output_dir), "--max_steps", "2", "--save_steps", "1", "--save_strategy", "steps"]
    command += ["--eval_strategy", "steps", "--eval_steps", "1", "--report_to", "none"]
    command += ["--results", str(tmp_path / "runs.csv"), "--cache_dir", str(tmp_path / "cache")]
    command += ["--push_to_hub", "true", "--hub_model_id", "org/avb-high", "--keep_checkpoints", "true"]
    done = run(command, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    repo = hub.repos["org/avb-high"]
    assert repo.private and set(repo.files) == set(hub_files(output_dir)) and len(repo.commits) == 1
    assert list(output_dir.glob("checkpoint-*/optimizer.pt"))  # there was something to leave out
    assert repo.files["model.safetensors"] == (output_dir / "model.safetensors").read_bytes()
    # A missing token would have been known before the first step.
    first = [path for _, path in hub.requests[:2]]
    assert first == ["/api/whoami-v2", "/api/repos/create"]
    card = repo.files["README.md"].decode()
    score = json.loads((output_dir / "metrics.json").read_text())["splits"]["validation"]["ccc"]
    assert "# avb-high" in card and f"| {round(score, 3) + 0.0:.3f} |" in card and "org/avb-high" in card
    assert "No person was recorded" in card and "Recipe: `sample" in card and str(tmp_path) not in card


@pytest.mark.slow
def test_training_without_a_token_fails_before_it_starts(sample, tmp_path):
    with HubStub() as stub:
        command = [sys.executable, "train_avb.py", ROOT / "recipes" / "sample.yaml", "--data_dir", sample]
        command += ["--output_dir", tmp_path / "run", "--push_to_hub", "true", "--hub_model_id", "org/x"]
        done = warm.run(command, env=stub.environment(tmp_path / "hf_home", token=None))
        assert stub.repos == {}
    assert done.returncode == 1 and "error: no Hub token" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_push_arguments_that_would_do_harm_are_refused(tmp_path):
    with pytest.raises(AvbError, match="--hub_token would be written to recipe.yaml"):
        AvbTrainingArguments(output_dir=str(tmp_path), hub_token="hf_secret")
    with pytest.raises(AvbError, match="needs --hub_model_id"):
        AvbTrainingArguments(output_dir=str(tmp_path), push_to_hub=True)
    assert AvbTrainingArguments(output_dir=str(tmp_path)).hub_private_repo is True

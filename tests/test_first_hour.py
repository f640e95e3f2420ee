"""What a newcomer meets in the first hour: help, wrong words, terminals of every kind, Ctrl-C, README, make."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

import qwen3_ref
from qwen3_ref import Qwen3Config, facts
from qwen3_ref.commands import line as cli
from qwen3_ref.store.shipped import NANO, find_nano

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPEN = [name for name, model in facts.official_models().items() if model["config"]]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh directory, without official weights, 80 columns wide."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QWEN3_WEIGHTS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command, run in this process."""
    code = cli.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def child(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, Python's switches before `-m` included."""
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **os.environ, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, encoding="utf-8",
        check=False, stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


# -- wrong words -------------------------------------------------------------------------------

LONG = "x" * 5_000
WRONG: list[tuple[str, int, str]] = [
    # Words, the exit code, and what the sentence says. {x} stands for what the test has made.
    ("fly", 2, "there is no command 'fly'; there are info, fetch, verify, chat, train, evaluate, measure"),
    ("''", 2, "there is no command ''"),
    ("infos", 2, "did you mean info"),
    ("INFO Qwen3-8B", 2, "did you mean info"),
    ("fetsh Qwen3-8B", 2, "did you mean fetch"),
    ("verfy", 2, "did you mean verify"),
    ("caht qwen3-nano", 2, "did you mean chat"),
    ("trian nano", 2, "did you mean train"),
    ("eval qwen3-nano", 2, "did you mean evaluate"),
    ("mesure all", 2, "did you mean measure"),
    ("help fly", 2, "there is no command 'fly'"),
    ("--json info", 2, "options stand behind their command, as in `info --help`"),
    ("--seed 1 chat qwen3-nano", 2, "as in `chat --help`"),
    ("-x", 2, "as in `info --help`"),
    ("--", 2, "as in `info --help`"),
    ("größe", 2, "there is no command 'größe'"),
    ("{long}", 2, "xxx ... "),
    ("'a\nb'", 2, r"there is no command 'a\nb'"),
    ("info qwen3-nano more", 2, "unrecognized arguments: more"),
    ("info --jsno", 2, "unrecognized arguments: --jsno; did you mean --json"),
    ("info --json=1", 2, "--json"),
    ("info Qwen3-9B", 2, "did you mean Qwen3-8B"),
    ("info Qwen3-8B-base", 2, "did you mean Qwen3-8B-Base"),
    ("info Qwen3-32B-Base", 2, "never published"),
    ("info ''", 2, "'' is not "),
    ("info ' '", 2, "' ' is not "),
    ("info {long}", 2, "xxx ... "),
    ("info ./nowhere", 2, "there is no directory ./nowhere"),
    ("info {file}", 2, "there is no directory "),
    ("info {empty}", 1, "there is no {empty}/config.json"),
    ("info {broken}", 1, "{broken}/config.json cannot be read as JSON"),
    ("info --json {empty}", 1, "there is no {empty}/config.json"),
    ("info 千問", 2, "'千問' is not "),
    ("info 'a\tb\x1b[31m'", 2, r"a\\tb\\x1b[31m"),
    ("fetch", 2, "NAME"),
    ("fetch Qwen3-9B", 2, "did you mean Qwen3-8B"),
    ("fetch Qwen3-8B Qwen3-4B", 2, "unrecognized arguments: Qwen3-4B"),
    ("fetch qwen3-nano", 2, "comes with the package"),
    ("fetch {empty}", 2, "fetch needs an official name"),
    ("fetch ./nowhere", 2, "fetch needs an official name"),
    ("fetch ''", 2, "'' is not "),
    ("fetch Qwen3-8B", 1, "HF_HUB_OFFLINE is set"),
    ("fetch Qwen3-8B --revision main", 2, "unrecognized arguments: --revision"),
    ("verify", 2, "NAME_OR_DIR"),
    ("verify Qwen3-9B", 2, "did you mean Qwen3-8B"),
    ("verify ''", 2, "'' is not "),
    ("verify ./nowhere", 2, "there is no directory ./nowhere"),
    ("verify {file}", 2, "there is no directory "),
    ("verify qwen3-nano --fast", 2, "unrecognized arguments: --fast"),
    ("chat", 2, "NAME_OR_DIR"),
    ("chat Qwen3-8B", 1, "`python -m qwen3_ref fetch Qwen3-8B` downloads it (16.4 GB)"),
    ("chat ''", 2, "'' is not "),
    ("chat {file}", 2, "there is no directory "),
    ("chat {empty}", 1, "there is no {empty}/"),
    ("chat qwen3-nano --seed -1", 2, "--seed: -1 is not 0 or more"),
    ("chat qwen3-nano --seed 1.5", 2, "invalid int value: '1.5'"),
    ("chat qwen3-nano --seed", 2, "--seed: expected one argument"),
    ("chat qwen3-nano --seed {digits}", 2, " ... "),
    ("chat qwen3-nano --temperature nan", 2, "nan is not 0.0 or more"),
    ("chat qwen3-nano --temperature inf", 2, "inf is not 0.0 or more"),
    ("chat qwen3-nano --temperature -0.1", 2, "-0.1 is not 0.0 or more"),
    ("chat qwen3-nano --temperature warm", 2, "invalid float value: 'warm'"),
    ("chat qwen3-nano --max-new-tokens 0", 2, "0 is not 1 or more"),
    ("chat qwen3-nano --thinking-budget -1", 2, "-1 is not 0 or more"),
    ("chat qwen3-nano --dtype int4", 2, "invalid choice: 'int4'"),
    ("chat qwen3-nano --template llama", 2, "invalid choice: 'llama'"),
    ("chat qwen3-nano --tempurature 1", 2, "did you mean --temperature"),
    ("chat qwen3-nano --no-thinking", 2, "did you mean --no-think"),
    ("train", 2, "family"),
    ("train mega", 2, "invalid choice: 'mega'"),
    ("train nano --seed x", 2, "invalid int value: 'x'"),
    ("train nano --precision fp8", 2, "invalid choice: 'fp8'"),
    ("train nano --scale", 2, "--scale: expected one argument"),
    ("train nano --scale much", 2, "--scale"),
    ("train nano --scale nan", 0, "scale"),
    ("train nano --scale 0", 0, "scale"),
    ("train nano --out", 2, "--out: expected one argument"),
    ("train nano --stages all", 2, "did you mean --stage"),
    ("evaluate", 2, "MODEL"),
    ("evaluate qwen3-mini", 2, "qwen3-mini"),
    ("evaluate ''", 2, "''"),
    ("evaluate {empty}", 1, "{empty}"),
    ("evaluate qwen3-nano --budgets", 2, "--budgets: expected at least one argument"),
    ("evaluate qwen3-nano --budgets -1", 2, "-1"),
    ("evaluate qwen3-nano --budgets 1.5", 2, "1.5 is not a whole number"),
    ("evaluate qwen3-nano --count 0", 2, "--count: 0 is not"),
    ("evaluate qwen3-nano --max-new-tokens x", 2, "x is not a whole number"),
    ("evaluate qwen3-nano --budget 1", 2, "did you mean --budgets"),
    ("measure", 2, "ROW"),
    ("measure speed --run {empty}", 0, "speed"),
    ("measure all --run ./nowhere", 0, "nowhere"),
    ("measure all --run {file}", 0, "file"),
    ("measure reasoning --run {empty}", 0, ""),
    ("measure all --run", 2, "--run: expected one argument"),
    ("measure table --rnu .", 2, "did you mean --run"),
]


@pytest.mark.parametrize(("words", "code", "says"), WRONG, ids=lambda x: str(x)[:60].replace("\n", " "))
def test_wrong_words_get_one_sentence(
    words: str, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 or 2 (0 in the table: either), nothing on stdout, one line on stderr, nothing written."""
    import shlex

    places = {"empty": "empty folder", "broken": "broken", "file": "file"}
    for name in ("empty folder", "broken"):
        Path(name).mkdir()
    Path("file").write_text("", encoding="utf-8")
    Path("broken/config.json").write_text("{", encoding="utf-8")
    fill = places | {"long": LONG, "digits": "9" * 5_000}
    before = sorted(tmp_path.rglob("*"))
    got, out, err = run(capsys, *(word.format(**fill) for word in shlex.split(words)))
    assert got == code if code else got in (1, 2)
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 2_000
    assert says.format(**fill).replace("\\\\", "\\") in err and err.isprintable() == (err == "")
    assert sorted(tmp_path.rglob("*")) == before, "an error leaves nothing behind"


def test_the_table_of_wrong_words_is_long_and_has_every_command() -> None:
    assert len(WRONG) >= 60
    assert {words.split()[0] for words, *_ in WRONG} >= set(cli.COMMANDS)


@pytest.mark.parametrize("switches", [[], ["-O"], ["-W", "error"]])
def test_a_real_process_says_the_same(switches: list[str]) -> None:
    for words in (["chat", "qwen3-nano", "--seed", "-1"], ["info", "Qwen3-9B"], ["fetch", "Qwen3-8B"]):
        result = child(*switches, "-m", "qwen3_ref", *words)
        assert result.returncode in (1, 2) and result.stdout == ""
        assert re.fullmatch(r"error: .*\n", result.stderr)


# -- help, version, json -----------------------------------------------------------------------


def test_help_in_every_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    """No words at all is the question what there is: help, and no error."""
    want = run(capsys, "--help")
    assert want[0] == 0 and want[2] == ""
    assert run(capsys) == run(capsys, "-h") == run(capsys, "help") == run(capsys, "help", "--help") == want
    for command in cli.COMMANDS:
        usage = run(capsys, command, "--help")
        assert usage[0] == 0 and usage[1].startswith(f"usage: python -m qwen3_ref {command} ")
        assert run(capsys, "help", command) == run(capsys, command, "-h") == usage


def test_the_version_stands_in_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    want = (0, f"qwen3_ref {qwen3_ref.__version__}\n", "")
    assert run(capsys, "--version") == run(capsys, "-V") == want
    assert qwen3_ref.__version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [[command, "--help"] for command in cli.COMMANDS] + [["info"], ["--help"]])
def test_help_is_quick_and_needs_no_torch(words: list[str]) -> None:
    code = (
        "import sys, time; from qwen3_ref.commands.line import main; main(sys.argv[1:]); "
        "print(time.process_time(), 'torch' in sys.modules, file=sys.stderr)"
    )
    seconds, torch = child("-c", code, *words).stderr.split()
    assert float(seconds) < 1.0 and torch == "False"


def test_the_script_speaks_its_own_name() -> None:
    """`qwen3-ref` is the same program; what it says of itself can be typed."""
    code = "import sys; sys.argv[0] = '/some/bin/qwen3-ref'; from qwen3_ref.__main__ import start; "
    code += "sys.exit(start())"
    for words in (["info", "Qwen3-0.6B", "--json"], ["info", "qwen3-nano"]):
        assert child("-c", code, *words).stdout == child("-m", "qwen3_ref", *words).stdout != ""
    for words in (["--help"], ["chat", "--help"], ["info", "--x"], ["chat", "Qwen3-8B"], ["verify", "Qwen3-8B"]):
        script, module = child("-c", code, *words), child("-m", "qwen3_ref", *words)
        assert script.returncode == module.returncode
        said = script.stdout + script.stderr
        assert "qwen3-ref " in said and "python -m" not in said
        renamed = module.stdout + module.stderr
        assert said.split() == renamed.replace("python -m qwen3_ref", "qwen3-ref").split()


def test_json_of_the_family_and_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers of the table, as numbers; the same keys whatever the model, all of them documented."""
    code, out, err = run(capsys, "info", "--json")
    family = json.loads(out)
    assert (code, err) == (0, "") and [one["name"] for one in family] == OPEN
    one = json.loads(run(capsys, "info", "--json", "Qwen/Qwen3-8B")[1])
    nano = json.loads(run(capsys, "info", "qwen3-nano", "--json")[1])
    assert one == family[OPEN.index("Qwen3-8B")]
    assert {tuple(each) for each in [*family, nano]} == {tuple(one)}
    assert one["parameters"]["total"] == 8_190_735_360 and one["repo"] == "Qwen/Qwen3-8B"
    assert one["weight_bytes"] == 16_381_470_720 and one["directory"] is None
    assert one["kv_cache_bytes"] == {str(n): 147_456 * n for n in (4_096, 32_768, 131_072)}
    assert set(one["flops_per_token"]) == {"0", "32768"}
    assert one["config_status"] == "verified" and re.fullmatch("[0-9a-f]{64}", one["config_sha256"])
    assert nano["name"] == "qwen3-nano" and nano["directory"] == str(find_nano("qwen3-nano"))
    assert nano["released"] is None and nano["config"] == json.loads(
        json.dumps(Qwen3Config.from_pretrained(find_nano("qwen3-nano")).to_dict())
    )
    moe = family[OPEN.index("Qwen3-30B-A3B")]["parameters"]
    assert moe == {"total": 30_532_122_624, "active": 3_349_921_792, "non_embedding": 29_909_792_768}
    told = run(capsys, "info", "--help")[1]
    assert all(re.search(rf"\b{key}\b", told) for key in one)


# -- terminals of every kind -------------------------------------------------------------------


def bare(text: str) -> str:
    """Letters and digits alone: what wrapping and columns cannot change."""
    return "".join(c for c in text if c.isalnum())


@pytest.mark.parametrize("words", [("info",), ("info", "Qwen3-30B-A3B"), ("info", "qwen3-nano")])
def test_tables_in_narrow_and_wide_terminals(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cut, and nothing but the line with a path is wider than the terminal."""
    said = {}
    for columns in (10, 40, 79, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        code, said[columns], _ = run(capsys, *words)
        widths = [len(line) for line in said[columns].splitlines() if not line.startswith("Source: ")]
        assert code == 0 and "…" not in said[columns]
        if columns >= 40:
            assert max(widths[2:]) <= columns
    cells = said[200].split()
    for columns in (10, 40, 79):
        assert all(bare(cell) in bare(said[columns]) for cell in cells)
    assert said[80].split() == cells


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_verify_in_narrow_and_wide_terminals(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen3_ref.official.verify import Finding

    findings = [Finding("sha256 of the weights", "failed", "why " * 20 + "end"), Finding("b", "passed", "seen")]
    monkeypatch.setattr("qwen3_ref.commands.verify.verify", lambda name: iter(findings))
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run(capsys, "verify", "qwen3-nano")
    assert code == 1 and out.splitlines()[-1] == "1 passed, 1 failed, 0 not checked"
    for finding in findings:
        assert bare(finding.status) in bare(out) and bare(finding.what) in bare(out)
        assert bare(finding.detail) in bare(out)
    if columns == 40:
        assert max(map(len, out.splitlines())) <= 40


@POSIX
@pytest.mark.parametrize("terminal", ["dumb", "xterm", "unknown-of-1970"])
def test_a_terminal_of_forty_columns(terminal: str) -> None:
    pexpect = pytest.importorskip("pexpect")
    environment = {**os.environ, "TERM": terminal, "PYTHONPATH": str(ROOT)}
    environment.pop("COLUMNS")
    out, code = pexpect.run(
        f"'{sys.executable}' -m qwen3_ref info Qwen3-8B",
        env=environment, withexitstatus=True, dimensions=(24, 40), encoding="utf-8", timeout=60,
    )  # fmt: skip
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in out.splitlines()]
    assert code == 0 and "Parameters" in lines and ("\x1b" in out) == (terminal != "dumb")
    assert max(len(line) for line in lines[2:] if not line.startswith("Source: ")) <= 40


@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": "/nonexistent", "USERPROFILE": "/nonexistent"},
        {"TERM": "dumb", "NO_COLOR": "1"},
        {"TERM": "", "COLUMNS": "many", "LINES": "-1"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONOPTIMIZE": "2"},
        {"QWEN3_WEIGHTS": "/dev/null/nonsense"},
        {"QWEN3_WEIGHTS": "~nobody/here\n"},
        {"HF_HOME": "/dev/null", "HF_HUB_CACHE": "/dev/null/hub"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_odd_surroundings_change_nothing(environment: dict[str, str]) -> None:
    for words in (["info"], ["verify", "Qwen3-8B"]):
        plain, odd = child("-m", "qwen3_ref", *words), child("-m", "qwen3_ref", *words, env=environment)
        assert (odd.returncode, odd.stderr) == (plain.returncode, "") and odd.stdout == plain.stdout


@POSIX
@pytest.mark.parametrize(
    ("ending", "code"),
    [("info 2>&-", 0), ("info 2>/dev/full", 0), ("fly 2>&-", 2), ("fly 2>/dev/full", 2), ("fly >&- 2>&-", 2)],
)
def test_an_error_that_nobody_can_read(ending: str, code: int) -> None:
    """It is in the exit code, and never on stdout."""
    if "/dev/full" in ending and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = f"'{sys.executable}' -m qwen3_ref {ending}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, shell=True, env=environment, stdout=subprocess.PIPE, check=False)
    assert result.returncode == code and bool(result.stdout) == (code == 0)


@POSIX
@pytest.mark.parametrize("words", ["--help", "chat --help", "--version", "info --json", "verify qwen3-nano"])
def test_a_full_disk_is_named(words: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [sys.executable, "-m", "qwen3_ref", *words.split()], stdout=full, stderr=subprocess.PIPE,
            text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert result.returncode == 1
    assert re.fullmatch(r"error: the output cannot be written \(.*\); make room, .*\n", result.stderr)


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("Unable to allocate 3 TiB.")])
def test_too_little_memory_is_a_sentence(
    error: MemoryError, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr("qwen3_ref.commands.verify.verify", fail)
    code, out, err = run(capsys, "verify", "qwen3-nano")
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert re.match(rf"error: there is not enough memory \({str(error).rstrip('.') or 'it asked'}", err)


# -- Ctrl-C ------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("place", ["rich/console.py", "qwen3_ref_slow/x.py"])
@pytest.mark.parametrize("how", ["time.sleep(30)", "A()"])
def test_an_interrupt_while_something_is_imported(place: str, how: str, tmp_path: Path) -> None:
    """Quiet, at once, 130: also where an exception would be swallowed, as in a __del__."""
    slow = "import time\nprint('importing', flush=True)\nclass A:\n    def __del__(self): time.sleep(30)\n" + how
    (tmp_path / place).parent.mkdir()
    (tmp_path / place).write_text(slow, encoding="utf-8")
    (tmp_path / place).with_name("__init__.py").write_text("", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-m", "qwen3_ref", "info"]
    if "slow" in place:  # in the middle of a command, as torch is
        code = (
            "import qwen3_ref.commands.info as i, qwen3_ref.__main__ as m, sys, importlib; "
            "i.command = lambda *_: importlib.import_module('qwen3_ref_slow.x'); sys.argv[1:] = ['info']; "
            "sys.exit(m.start())"
        )
        command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "") and time.monotonic() - start < 10


def test_an_interrupt_elsewhere_is_an_exception() -> None:
    """A command can clean up: a training run saves."""
    from qwen3_ref import __main__ as entry

    with pytest.raises(KeyboardInterrupt):
        entry._interrupt(signal.SIGINT, sys._getframe())


# -- README, make, the wheel -------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_readmes_python_runs_as_it_stands() -> None:
    """On a machine without official weights; what a comment behind a line promises is what comes."""
    import torch

    torch.manual_seed(0)
    (source,) = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(source, "README.md", "exec"), names)
    promises = re.findall(r"^([^#\n=]*\(.*\)) +# (\d+)$", source, re.MULTILINE)
    assert promises
    for expression, number in promises:
        assert eval(expression, names) == int(number)
    assert names["reply"].content.strip()


def quoted() -> list[str]:
    """Every command line that the README quotes, without its comment."""
    found = re.findall(r"python -m qwen3_ref ([^`#\n|]+)", README)
    return sorted({line.strip() for line in found})


def test_the_commands_that_the_readme_quotes_exist(capsys: pytest.CaptureFixture[str]) -> None:
    lines = quoted()
    assert {line.split()[0] for line in lines} >= set(cli.COMMANDS)
    for line in lines:
        command, *rest = line.split()
        cli.parser_of(command).parse_args(["nano" if word == "NAME" else word for word in rest])
    for line in lines:  # those that take no time and no network
        if line.split()[0] == "info" or line == "verify qwen3-nano":
            assert run(capsys, *line.split())[0] == 0, line
    for module in re.findall(r"python -m ((?:tests|qwen3_ref)\.[\w.]+)", README):
        assert importlib.util.find_spec(module), module
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An empty project with the Makefile, and a place for false programs."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@POSIX
@pytest.mark.parametrize(("user", "root"), [("0", True), ("1000", False)])
def test_the_lab_opens_for_root_too(made: Path, user: str, root: bool) -> None:
    program(made / "bin" / "id", f"echo {user}")
    path = f"{made / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "-n", "lab", "LAB=--ip=0.0.0.0"]
    said = subprocess.run(
        command, cwd=made, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    ).stdout
    assert ("--allow-root" in said) == root and "--ip=0.0.0.0" in said


@POSIX
@pytest.mark.parametrize(
    ("script", "says"),
    [
        (f"exec '{sys.executable}' -c \"import sys; sys.version_info = (3, 9); $2\"", "is too old: 3.11"),
        (f"case \"$2\" in *ensurepip*) exit 1;; esac; exec '{sys.executable}' \"$@\"", "has no venv module"),
    ],
)
def test_make_says_what_the_interpreter_lacks(made: Path, script: str, says: str) -> None:
    program(made / "bin" / "python", script)
    command = ["make", "test", f"PYTHON={made / 'bin' / 'python'}"]
    result = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
    first, *rest = result.stderr.splitlines()
    assert result.returncode != 0 and first.startswith("error: ") and says in first
    assert all(line.startswith("make") for line in rest) and not (made / ".venv").exists()


def test_the_slowest_tests_are_printed() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^unit:.*\n\t.* --durations=10 tests$", makefile, re.MULTILINE)


def test_the_wheel_holds_what_git_holds(tmp_path: Path) -> None:
    """An installation that is no checkout has every file of the package, data included, and the script."""
    from importlib.metadata import version

    from packaging.version import Version

    if importlib.util.find_spec("setuptools") is None or Version(version("setuptools")) < Version("77"):
        pytest.skip("needs setuptools 77")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    package = [name for name in files if name.startswith("qwen3_ref/")]
    for name in [*package, "pyproject.toml", "README.md", "LICENSE"]:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "src" / name)
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    out = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=tmp_path / "src", capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    with zipfile.ZipFile(tmp_path / out.split()[-1]) as wheel:
        names = set(wheel.namelist())
        scripts = next(wheel.read(name) for name in names if name.endswith("entry_points.txt")).decode()
    assert {name for name in names if name.startswith("qwen3_ref/")} == set(package)
    assert f"qwen3_ref-{qwen3_ref.__version__}-" in out
    assert "qwen3-ref = qwen3_ref.__main__:start" in scripts
    assert all(f"qwen3_ref/data/nano/{name}/model.safetensors" in names for name in NANO)

"""Two processes that do not see the same, at once and in one line on both."""

import json
import textwrap

from dynnas_jax import sharing
from dynnas_jax.workdir import Workdir


def test_one_process_leaves_nothing(tmp_path):
    sharing.check(Workdir(tmp_path / "W", (), {}))
    assert not (tmp_path / "W").exists()


def test_two_processes(two_processes, tmp_path):
    script = """
        import json, pathlib, sys
        from dynnas_jax import processes
        me = int(sys.argv[2])
        processes.join(sys.argv[1], 2, me)
        from dynnas_jax import sharing
        from dynnas_jax.workdir import Workdir
        sharing.SEEN_WITHIN_S = 0.5

        def problem(name, config):
            try:
                sharing.check(Workdir(pathlib.Path(sys.argv[3]) / name, (), config))
            except ValueError as error:
                return str(error)

        found = [problem("one", {"seed": 0}), problem(f"disk_of_{me}", {"seed": 0}), problem("one", {"seed": me})]
        processes.wait_for_all("end")
        print(json.dumps(found))
    """
    (tmp_path / "disk_of_0").mkdir()
    (tmp_path / "disk_of_0" / "kept").touch()
    printed = two_processes(textwrap.dedent(script), tmp_path)
    for me, text in enumerate(printed):
        fine, folder, config = json.loads(next(x for x in text.splitlines() if x.startswith("[")))
        assert fine is None
        said = "process 1 does not see there what process 0 wrote; it must be one folder that all hosts see"
        assert folder.startswith(f"--workdir={tmp_path / f'disk_of_{me}'}: {said}")
        assert config.startswith(f"--workdir={tmp_path / 'one'}: process 1 was given another config than process 0")
    assert [path.name for path in tmp_path.rglob("*")] == ["disk_of_0", "kept"]
